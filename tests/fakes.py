"""Small real things for tests: a random two-layer Llama in a folder, and a domain of one-line facts.

YAML names them by class_path: ``fakes.ToyDomain``, ``fakes.ToyTasks`` (pytest puts ``tests/`` on the path).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from seal_lightning.core import (
    AdaptationPlan,
    AdapterSpec,
    AnsweredQuestion,
    ExamPrompt,
    OptimizerSpec,
    Prompt,
    Segment,
    SelfEdit,
    Task,
    TrainingSequence,
)
from seal_lightning.core.errors import MalformedEdit
from seal_lightning.core.interfaces import Domain, TaskSource

END, BEGIN = "<|end|>", "<|begin|>"
MAX_LENGTH = 256
COLOURS = ("red", "green", "blue", "white", "black", "amber")
_CORPUS = [
    *(f"The stone {number} is {colour}.\nStone {number}: {colour}" for number in range(12) for colour in COLOURS),
    "The quick brown fox jumps over the lazy dog.",
    "Facts and implications, one on a line, for the model to learn from.",
    "Question: what is the colour of the stone? Answer: it is known.",
    "user assistant system\n\n1. First.\n2. Second.\n3. Third.\n",
]
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def tiny_tokenizer(begin_token: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 350 tokens; ``begin_token`` makes it start texts as Llama's does."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = [END, BEGIN]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        _CORPUS,
        trainers.BpeTrainer(vocab_size=350, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    if begin_token:
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A", special_tokens=[(BEGIN, bpe.token_to_id(BEGIN))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, pad_token=END, bos_token=BEGIN, chat_template=_CHAT_TEMPLATE
    )


def write_tiny_model(
    folder: Path, seed: int = 0, begin_token: bool = False, max_length: int = MAX_LENGTH, hidden_size: int = 32
) -> Path:
    """Write a two-layer Llama with random weights and its tokenizer, as ``save_pretrained`` does; returns the folder."""
    tokenizer = tiny_tokenizer(begin_token)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_length,
        tie_word_embeddings=False,
        initializer_range=0.2,  # so that logits differ enough for greedy choices to be clear
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    folder = Path(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True, kw_only=True)
class ToyTask(Task):
    """A fact, "stone 3 is red", and the question after its colour."""

    key: str
    value: str

    @property
    def context(self) -> str:
        return f"The {self.key} is {self.value}."


class ToyTasks(TaskSource):
    """``num_tasks`` facts, counted from ``offset``: other offsets, other tasks."""

    def __init__(self, num_tasks: int, offset: int = 0) -> None:
        self.num_tasks = num_tasks
        self.offset = offset

    def load(self) -> Sequence[ToyTask]:
        return [
            ToyTask(task_id=f"stone-{n}", key=f"stone {n}", value=COLOURS[n % len(COLOURS)])
            for n in range(self.offset, self.offset + self.num_tasks)
        ]


_ADAPTER = AdapterSpec(rank=2, alpha=4.0)
_OPTIMIZER = OptimizerSpec(learning_rate=1e-2, num_epochs=2, batch_size=2)


class ToyDomain(Domain[ToyTask]):
    """Facts: an edit is lines about one; it is trained line by line (at most ``max_lines``), and the fact with them."""

    max_lines = 4

    def __init__(self, adapter: AdapterSpec = _ADAPTER, optimizer: OptimizerSpec = _OPTIMIZER) -> None:
        self.adapter = adapter
        self.optimizer = optimizer

    def edit_prompt(self, task: ToyTask) -> Prompt:
        return f"{task.context}\nFacts:\n"

    def edit_stop(self) -> tuple[str, ...]:
        return ("\n\n",)

    def plan(self, task: ToyTask, edit: SelfEdit) -> AdaptationPlan:
        lines = [line.strip() for line in edit.text.split("\n") if line.strip()]
        if not lines:
            raise MalformedEdit("empty", repr(edit.text))
        return self._plan(task, [*lines[: self.max_lines], task.context], dropped=max(0, len(lines) - self.max_lines))

    def plan_without_edit(self, task: ToyTask) -> AdaptationPlan:
        return self._plan(task, [task.context])

    def exam(self, task: ToyTask) -> Sequence[ExamPrompt]:
        return [self._question(task, "")]

    def in_context_exam(self, task: ToyTask) -> Sequence[ExamPrompt]:
        return [self._question(task, f"{task.context}\n")]

    def answered_questions(self, task: ToyTask, answers: Mapping[tuple[str, str], str]) -> Sequence[AnsweredQuestion]:
        answer = answers["colour", "identity"].strip()
        return [
            AnsweredQuestion(
                question_id="colour", question=f"What is {task.key}?", gold_answers=(task.value,), answer=answer
            )
        ]

    @staticmethod
    def _question(task: ToyTask, context: str) -> ExamPrompt:
        return ExamPrompt(
            question_id="colour",
            prompt=f"{context}The {task.key} is",
            target=f" {task.value}",
            max_new_tokens=4,
            stop=("\n",),
        )

    def _plan(self, task: ToyTask, lines: Sequence[str], dropped: int = 0) -> AdaptationPlan:
        heading = Segment(text=f"{task.key}: ", trained=False)
        sequences = tuple(TrainingSequence(segments=(heading, Segment(text=line))) for line in lines)
        return AdaptationPlan(
            sequences=sequences, adapter=self.adapter, optimizer=self.optimizer, dropped_sequences=dropped
        )


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 of every parameter and buffer, bit for bit."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
