"""The inner loop as it is done elsewhere: PEFT, one adapter after another."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, get_scheduler

from seal_lightning.core import AdaptationPlan
from seal_lightning.inner_loop.tokenizing import tokenize
from seal_lightning.models.language_model import LanguageModel

RELEASE_LENGTH = 2048
"""The released code pads every sequence to this, and trains on the pads."""


class Rows(Dataset[dict[str, torch.Tensor]]):
    """A plan's sequences, labelled with their own tokens."""

    def __init__(self, plan: AdaptationPlan, language_model: LanguageModel, length: int | None) -> None:
        self.rows = []
        for sequence in plan.sequences:
            ids = list(tokenize(sequence, language_model).token_ids)
            if length is not None:
                ids = (ids + [language_model.pad_id] * length)[:length]
            self.rows.append({"input_ids": torch.tensor(ids), "labels": torch.tensor(ids)})

    def __len__(self) -> int:
        """How many sequences."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One sequence, without attention mask: nothing is masked."""
        return self.rows[index]


class OneByOne:
    """A PEFT model whose one adapter starts anew for each plan; that is cheaper than a new model each time."""

    def __init__(self, language_model: LanguageModel, rank: int, alpha: float) -> None:
        self.language_model = language_model
        config = LoraConfig(r=rank, lora_alpha=alpha, task_type="CAUSAL_LM")
        self.model: Any = get_peft_model(language_model.model, config)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    def start(self) -> None:
        """A fresh adapter."""
        for module in self.model.modules():
            if hasattr(module, "reset_lora_parameters"):
                module.reset_lora_parameters("default", init_lora_weights=True)

    def by_trainer(self, plan: AdaptationPlan, length: int | None, max_steps: int = -1) -> None:
        """Hugging Face's trainer; with a ``length`` every sequence is padded to it."""
        self.start()
        bf16 = self.language_model.model.dtype is torch.bfloat16
        with tempfile.TemporaryDirectory() as folder:
            options = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=1,
                num_train_epochs=plan.optimizer.num_epochs,
                max_steps=max_steps,
                learning_rate=plan.optimizer.learning_rate,
                lr_scheduler_type="linear",
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                bf16=bf16,
                use_cpu=self.language_model.device.type == "cpu",
            )
            Trainer(model=self.model, args=options, train_dataset=Rows(plan, self.language_model, length)).train()
        self.model.eval()

    def by_torch(self, plan: AdaptationPlan) -> None:
        """A plain loop: forward, backward, clip, AdamW, schedule."""
        self.start()
        options = plan.optimizer
        optimizer = torch.optim.AdamW(self.parameters, lr=options.learning_rate, weight_decay=0.0)
        schedule = get_scheduler("linear", optimizer, 0, plan.num_steps)
        rows = Rows(plan, self.language_model, None)
        for epoch in range(options.num_epochs):
            for index in torch.randperm(len(rows), generator=torch.Generator().manual_seed(epoch)).tolist():
                batch = {name: t[None].to(self.language_model.device) for name, t in rows[index].items()}
                self.model(**batch).loss.backward()
                torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()

    @torch.no_grad()
    def write(self, prompts: list[str], max_new_tokens: int, sample: bool, adapted: bool) -> int:
        """``generate`` on one left-padded batch; returns how many tokens were written."""
        tokenizer = self.language_model.tokenizer
        tokenizer.padding_side = "left"
        batch = tokenizer(prompts, return_tensors="pt", padding=True).to(self.language_model.device)
        options: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_p": 0.95, "top_k": 0} if sample else {}
        if adapted:
            output = self.model.generate(**batch, max_new_tokens=max_new_tokens, **options)
        else:
            with self.model.disable_adapter():
                output = self.model.generate(**batch, max_new_tokens=max_new_tokens, **options)
        written = output[:, batch["input_ids"].shape[1] :]
        return int((written != self.language_model.pad_id).sum())
