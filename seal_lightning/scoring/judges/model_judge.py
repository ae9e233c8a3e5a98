"""A local language model as judge: it takes the option that it would most probably reply."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch

from seal_lightning.core import Choice, ChoiceScoreRequest, Judgement, JudgeQuestion, Prompt
from seal_lightning.core.errors import ModelError, require
from seal_lightning.core.interfaces import Engine
from seal_lightning.generation import TransformersEngine
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.out_of_memory import is_out_of_memory, retry_in_halves
from seal_lightning.models.pretrained import EMBEDDED, Pretrained
from seal_lightning.scoring.judges.cached_judge import CachedJudge, Report
from seal_lightning.scoring.judges.tally import JudgeTally
from seal_lightning.scoring.judges.wording import JudgeWording

_CHOICE = "option"


class ModelJudge(CachedJudge):
    """Judge that is a causal language model of its own, in this process; its weights are not part of the policy's.

    The options are scored as the choice of a schema behind the prompt (:meth:`Engine.score_choices`), so their
    probabilities sum to 1. The model is loaded at the first question that is missing from the cache.

    Args:
        pretrained: the model; the small embedded one by default, whose judgement is poor.
        style: ``chat`` puts the question through the model's chat template; ``base`` has a base model continue a text.
        device: ``cpu``, ``cuda``, ``cuda:1``, …; ``auto`` is a GPU where there is one.
        max_batch_size: ≥ 1, options scored at once.
        wording: the texts around a question.
        max_unscored: in [0, 1]: a larger share of undecided questions stops the run.
        min_questions: ≥ 1: the share counts from so many questions on.
        cache_dir: folder of cached decisions; None is ``judgements`` in the package's cache folder.
        use_cache: whether decisions are cached.

    Example:
        >>> ModelJudge(Pretrained(source="Qwen/Qwen2.5-7B"), style="base").identity["style"]
        'base'
    """

    def __init__(
        self,
        pretrained: Pretrained = Pretrained(),  # noqa: B008 - a frozen record
        style: Literal["chat", "base"] = "chat",
        device: str = "auto",
        max_batch_size: int = 16,
        wording: JudgeWording = JudgeWording(),  # noqa: B008
        max_unscored: float = 0.05,
        min_questions: int = 20,
        cache_dir: str | None = None,
        use_cache: bool = True,
    ) -> None:
        require(max_batch_size >= 1, "judge.max_batch_size", max_batch_size, "at least 1")
        tally = JudgeTally(f"ModelJudge ({pretrained.source})", max_unscored, min_questions)
        super().__init__(tally, cache_dir, use_cache)
        self.pretrained = pretrained
        self.style = style
        self.device = device
        self.max_batch_size = max_batch_size
        self.wording = wording

    @cached_property
    def identity(self) -> Mapping[str, object]:
        """Model, style and wording; for a local folder its files' sizes and times too, since a model may be overwritten."""
        folder = Path(self.pretrained.source)
        files = sorted(folder.iterdir()) if self.pretrained.source != EMBEDDED and folder.is_dir() else []
        return {
            "judge": "model",
            "pretrained": asdict(self.pretrained),
            "files": [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()],
            "style": self.style,
            "wording": asdict(self.wording),
        }

    @cached_property
    def language_model(self) -> LanguageModel:
        """The model, loaded at first use. Raises :class:`ModelError`."""
        loaded = self.pretrained.load()
        name = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        try:
            loaded.model.to(name)
        except (RuntimeError, AssertionError) as error:
            first_line = str(error).split("\n", 1)[0][:200]
            raise ModelError(
                f"ModelJudge: device {name!r} cannot hold {self.pretrained.source}: {first_line}"
            ) from error
        return loaded

    @cached_property
    def engine(self) -> Engine:
        """The engine that scores options with the judge's model."""
        engine = TransformersEngine(max_batch_size=self.max_batch_size)
        engine.bind(self.language_model)
        return engine

    def __getstate__(self) -> dict[str, object]:
        """Return the state without the model: a copy loads its own."""
        return {name: value for name, value in vars(self).items() if name not in ("language_model", "engine")}

    def ask(self, questions: Sequence[JudgeQuestion], report: Report) -> None:
        """Judge each question by the model's probabilities; one that exceeds its context is undecided."""
        lengths = {question: self._num_tokens(question) for question in questions}
        limit = self.language_model.max_length
        # Like lengths together, so that little is padded. Each chunk's decisions are cached before the next one.
        fitting = sorted((one for one in questions if lengths[one] <= limit), key=lengths.__getitem__)
        while fitting:
            num = max(1, self.max_batch_size // len(fitting[0].options))
            chunk, fitting = fitting[:num], fitting[num:]
            for question, judgement in zip(chunk, retry_in_halves(chunk, self._judge), strict=True):
                report(question, judgement)
        for question in (one for one in questions if lengths[one] > limit):
            report(question, Judgement(option=None, reason=f"longer than the judge's context of {limit} tokens"))

    def _prompt(self, question: JudgeQuestion) -> Prompt:
        return self.wording.chat(question) if self.style == "chat" else self.wording.base(question)

    def _written(self, option: str) -> str:
        return option if self.style == "chat" else f" {option}"

    def _num_tokens(self, question: JudgeQuestion) -> int:
        """Return the tokens of the prompt, the longest option and the end."""
        model = self.language_model
        options = [len(model.encode_text(self._written(option))) for option in question.options]
        return len(model.prompt_ids(self._prompt(question))) + max(options) + 1

    def _judge(self, questions: Sequence[JudgeQuestion]) -> list[Judgement]:
        requests = []
        for question in questions:
            options = tuple(map(self._written, question.options))
            schema = (Choice(name=_CHOICE, options=options),)
            prompt = self._prompt(question)
            requests += [ChoiceScoreRequest(prompt=prompt, schema=schema, choices={_CHOICE: one}) for one in options]
        try:
            scores = iter(self.engine.score_choices(requests))
        except RuntimeError as error:
            if len(questions) > 1 or not is_out_of_memory(error):
                raise
            return [Judgement(option=None, reason="out of memory")]
        return [_judgement(question, [next(scores) for _ in question.options]) for question in questions]


def _judgement(question: JudgeQuestion, log_probs: Sequence[float]) -> Judgement:
    """Return the likeliest option; of equally likely ones the last, so that a tie is never a yes."""
    if not all(map(math.isfinite, log_probs)):
        return Judgement(option=None, reason="the model's probabilities are not finite")
    weights = [math.exp(value - max(log_probs)) for value in log_probs]
    probabilities = tuple(weight / sum(weights) for weight in weights)
    best = max(range(len(weights)), key=lambda i: (probabilities[i], i))
    return Judgement(option=question.options[best], probabilities=probabilities)
