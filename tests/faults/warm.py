"""Imported once by the process that children are forked from: what takes seconds to import is there then."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # as the command line sets it

import lightning.pytorch  # noqa: F401
import peft  # noqa: F401
import tensorboard  # noqa: F401
import torch
import torch.utils.tensorboard
import transformers  # noqa: F401
from transformers.models.llama import modeling_llama  # noqa: F401

import seal_lightning.cli.lightning_cli  # noqa: F401

torch.set_num_threads(1)
