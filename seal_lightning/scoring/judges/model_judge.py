"""A local language model as judge: it takes the option that it would most probably reply.

Shapes: T packed tokens, P positions that are read, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from seal_lightning.core import Judgement, JudgeQuestion
from seal_lightning.core.errors import ModelError, require
from seal_lightning.distributed import interruption
from seal_lightning.distributed.background_loop import on_main_thread
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.out_of_memory import in_halves, is_out_of_memory
from seal_lightning.models.packed import TokenizedSequence
from seal_lightning.models.packed.attention import packed_attention
from seal_lightning.models.packed.rows import grouped_within
from seal_lightning.models.pretrained import EMBEDDED, Pretrained
from seal_lightning.scoring.judges.cached_judge import CachedJudge, Took
from seal_lightning.scoring.judges.tally import Tally
from seal_lightning.scoring.judges.wording import JudgeWording


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """A sequence, and what is read behind some of its tokens: the log-probability of one or more next tokens."""

    sequence: TokenizedSequence
    first: int
    """The position of the first token that is read behind; the others follow it."""
    targets: tuple[tuple[int, ...], ...]
    """Token ids, position by position."""


class ModelJudge(CachedJudge):
    """A causal language model of its own, in this process; its weights are no part of the policy's.

    An option's probability is that of its tokens behind the prompt, over the sum of all options'. The model is loaded when
    the first question comes that is not in the cache.

    Args:
        pretrained: the model; the small embedded one by default, whose judgement is poor.
        style: ``chat`` puts the question through the model's chat template; ``base`` has a base model continue a text.
        device: where it computes: ``cpu``, ``cuda``, ``cuda:1``, …; ``auto`` is a GPU where there is one.
        max_tokens_per_pass: ≥ 1, tokens of one forward pass; a longer question stands alone.
        wording: the texts around a question.
        max_unscored: in [0, 1]: a larger share of undecided questions stops the run.
        min_questions: ≥ 1: not before so many were asked.
        cache_dir: where decisions are kept; None is ``judgements`` in the package's cache folder.
        use_cache: whether they are.
        max_cached: ≥ 256, decisions kept in that folder.
        max_chars: ≥ 1, characters of a question's texts together; a longer one is undecided.
    """

    def __init__(
        self,
        pretrained: Pretrained = Pretrained(),  # noqa: B008 - a frozen record
        style: Literal["chat", "base"] = "chat",
        device: str = "auto",
        max_tokens_per_pass: int = 2048,
        wording: JudgeWording = JudgeWording(),  # noqa: B008
        max_unscored: float = 0.05,
        min_questions: int = 20,
        cache_dir: str | None = None,
        use_cache: bool = True,
        max_cached: int = 200_000,
        max_chars: int = 100_000,
    ) -> None:
        require(max_tokens_per_pass >= 1, "judge.max_tokens_per_pass", max_tokens_per_pass, "at least 1")
        tally = Tally(f"ModelJudge ({pretrained.source})", max_unscored, min_questions)
        super().__init__(tally, cache_dir, use_cache, max_cached, max_chars)
        self.pretrained = pretrained
        self.style = style
        self.device = device
        self.max_tokens_per_pass = max_tokens_per_pass
        self.wording = wording

    @cached_property
    def identity(self) -> Mapping[str, object]:
        """Of a local folder, its files' sizes and times too: a model may be written over."""
        folder = Path(self.pretrained.source)
        files = sorted(folder.iterdir()) if self.pretrained.source != EMBEDDED and folder.is_dir() else []
        content = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()]
        return {
            "judge": "model",
            "pretrained": asdict(self.pretrained),
            "files": content,
            "style": self.style,
            "wording": asdict(self.wording),
        }

    @cached_property
    def language_model(self) -> LanguageModel:
        """The model, loaded when first asked for. Raises :class:`ModelError`."""
        loaded = self.pretrained.load()
        name = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        try:
            loaded.model.to(name)
        except (RuntimeError, AssertionError) as error:
            first_line = str(error).split("\n", 1)[0][:200]
            raise ModelError(
                f"ModelJudge: device {name!r} cannot hold {self.pretrained.source}: {first_line}"
            ) from error
        _ = loaded.packed  # which checks the model
        return loaded

    def __getstate__(self) -> dict[str, object]:
        """Without the model: a copy loads its own."""
        return {name: value for name, value in vars(self).items() if name != "language_model"}

    def asks(self, questions: Sequence[JudgeQuestion], took: Took) -> None:
        """Each by the model's probabilities; one that does not fit its context is undecided."""
        fitting: list[tuple[JudgeQuestion, list[_Reading]]] = []
        too_long: list[tuple[JudgeQuestion, Judgement]] = []
        for question in questions:
            readings = self._readings(question)
            longest = max(len(reading.sequence.token_ids) for reading in readings)
            if longest > self.language_model.max_length:
                reason = f"longer than the judge's context of {self.language_model.max_length} tokens"
                too_long.append((question, Judgement(option=None, reason=reason)))
            else:
                fitting.append((question, readings))
        found: dict[int, tuple[float, ...] | None] = {}
        waiting = {id(reading): (question, readings) for question, readings in fitting for reading in readings}
        for reading, log_probs in self._log_probs([reading for _, readings in fitting for reading in readings]):
            found[id(reading)] = log_probs
            question, readings = waiting[id(reading)]
            if all(id(one) in found for one in readings):
                took(question, _judgement(question, [found[id(one)] for one in readings]))
        for question, judgement in too_long:
            took(question, judgement)

    def _readings(self, question: JudgeQuestion) -> list[_Reading]:
        """One where every option is a token of its own, else one an option."""
        model = self.language_model
        chat = self.style == "chat"
        prompt = model.prompt_ids(self.wording.chat(question) if chat else self.wording.base(question))
        options = [tuple(model.encode_text(option if chat else f" {option}")) for option in question.options]
        if all(len(tokens) == 1 for tokens in options):
            firsts = tuple(tokens[0] for tokens in options)
            return [_Reading(sequence=_sequence(prompt), first=len(prompt) - 1, targets=(firsts,))]
        return [
            _Reading(
                sequence=_sequence([*prompt, *tokens[:-1]]),
                first=len(prompt) - 1,
                targets=tuple((token,) for token in tokens),
            )
            for tokens in options
        ]

    def _log_probs(self, readings: Sequence[_Reading]) -> Iterator[tuple[_Reading, tuple[float, ...] | None]]:
        """Each reading, the shortest first, with the log-probabilities of its targets, summed over positions where there are
        several; None where memory does not hold it.
        """
        by_length = sorted(readings, key=lambda reading: len(reading.sequence.token_ids))
        position = 0
        for group in grouped_within([reading.sequence for reading in by_length], self.max_tokens_per_pass):
            if on_main_thread():
                interruption.check()
            chosen = by_length[position : position + len(group)]
            position += len(group)
            yield from zip(chosen, in_halves(chosen, self._pass_if_it_fits), strict=True)

    def _pass_if_it_fits(self, readings: Sequence[_Reading]) -> list[tuple[float, ...] | None]:
        """One forward pass; a reading that does not fit memory on its own has no log-probabilities."""
        try:
            return [*self._pass(readings)]
        except RuntimeError as error:
            if len(readings) > 1 or not is_out_of_memory(error):
                raise
        return [None]

    @torch.no_grad()
    def _pass(self, readings: Sequence[_Reading]) -> list[tuple[float, ...]]:
        """One forward pass over the readings' sequences, packed."""
        model = self.language_model
        lengths = [len(reading.sequence.token_ids) for reading in readings]
        ids_T = torch.tensor([i for reading in readings for i in reading.sequence.token_ids], device=model.device)
        positions_T = torch.cat([torch.arange(length) for length in lengths]).to(model.device)
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
        read_at = [
            start + reading.first + step
            for start, reading in zip(starts, readings, strict=True)
            for step in range(len(reading.targets))
        ]
        with packed_attention(model.model, lengths, model.device):
            logits_PV: Tensor = model.model(
                input_ids=ids_T[None],
                position_ids=positions_T[None],
                use_cache=False,
                logits_to_keep=torch.tensor(read_at, device=model.device),
            ).logits[0]
        rows = iter(logits_PV.double().log_softmax(dim=-1).cpu())
        values = []
        for reading in readings:
            steps = [next(rows)[list(tokens)] for tokens in reading.targets]
            values.append(tuple(torch.stack(steps).sum(dim=0).tolist()))
        return values


def _sequence(ids: Sequence[int]) -> TokenizedSequence:
    return TokenizedSequence(token_ids=tuple(ids), trained=(False,) * len(ids))


def _judgement(question: JudgeQuestion, log_probs: Sequence[tuple[float, ...] | None]) -> Judgement:
    """The likeliest option; of equally likely ones the last, so that a yes is never a tie's."""
    known = [values for values in log_probs if values is not None]
    if len(known) < len(log_probs):
        return Judgement(option=None, reason="out of memory")
    flat = [value for values in known for value in values]
    highest = max(flat)
    if not math.isfinite(highest):
        return Judgement(option=None, reason="the model's probabilities are not finite")
    weights = [math.exp(value - highest) for value in flat]
    probabilities = tuple(weight / sum(weights) for weight in weights)
    best = max(range(len(flat)), key=lambda i: (probabilities[i], i))
    return Judgement(option=question.options[best], probabilities=probabilities)
