"""Adapters trained side by side: the choice of sequences per pass, and runs that finish, diverge or do not fit."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch

from seal_lightning.core import AdaptationPlan, Adapted, AdapterSpec, Diverged
from seal_lightning.distributed import interruption
from seal_lightning.inner_loop.adapter_run import AdapterRun
from seal_lightning.inner_loop.memory import Allowance
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter, routed
from seal_lightning.models.out_of_memory import is_out_of_memory
from seal_lightning.models.packed import (
    Anchored,
    LowerLayers,
    PackedRow,
    TokenizedSequence,
    UnadaptedStates,
    gradient_checkpointed,
    pack,
)

_logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True)
class QueuedPlan:
    """A plan waiting to be trained."""

    index: int
    """Index among the plans of the call."""
    plan: AdaptationPlan
    seed: int
    sequences: Sequence[TokenizedSequence]
    anchors: Sequence[TokenizedSequence] = ()
    """Texts on which the adapted model is held to its earlier distribution."""

    @property
    def all_sequences(self) -> list[TokenizedSequence]:
        """All sequences that go through the model."""
        return [*self.sequences, *self.anchors]


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """A run's part of one pass."""

    index: int
    run: AdapterRun
    sequences: list[TokenizedSequence]

    @property
    def num_tokens(self) -> int:
        return sum(len(s.token_ids) for s in self.sequences)


class ConcurrentAdapters:
    """Trains candidates together, within an allowance of adapters and tokens.

    A pass serves the runs with most tokens left first, so that none is left to train alone at the end.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        fresh_adapter: Callable[[AdapterSpec, int], LoraAdapter],
        allowance: Allowance,
        lower_layers: LowerLayers | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        self.language_model = language_model
        self.fresh_adapter = fresh_adapter
        self.allowance = allowance
        self.lower_layers = lower_layers
        self.gradient_checkpointing = gradient_checkpointing
        self.did_not_fit: list[QueuedPlan] = []
        """Candidates that ran out of memory with a single sequence in the pass, or could not be started."""
        self.failed_at_step = 0
        self._active: dict[int, AdapterRun] = {}
        self._results: dict[int, Adapted | Diverged] = {}

    def train(self, candidates: Sequence[QueuedPlan]) -> dict[int, Adapted | Diverged]:
        """Return the results by candidate index; those that did not fit are missing."""
        self._candidates = {candidate.index: candidate for candidate in candidates}
        if any(candidate.anchors for candidate in candidates):
            self._unadapted = UnadaptedStates(self.language_model.packed, self.allowance.num_tokens)
        waiting = sorted(candidates, key=lambda c: sum(len(s.token_ids) for s in c.sequences) * c.plan.num_steps)
        while waiting or self._active:
            while waiting and len(self._active) < self.allowance.num_adapters:
                if not self._admit(waiting[-1]):
                    break
                waiting.pop()
            interruption.check()
            if self._active:
                self._pass(self._turns())
            elif waiting:
                self.did_not_fit.append(waiting.pop())
        return self._results

    def _admit(self, candidate: QueuedPlan) -> bool:
        """Start a candidate's run; return False where its weights do not fit."""
        run = _unless_out_of_memory(
            lambda: AdapterRun(
                self.fresh_adapter(candidate.plan.adapter, candidate.seed),
                candidate.plan,
                candidate.sequences,
                candidate.seed,
                candidate.anchors,
            )
        )
        if run is None:
            self._take_fewer_adapters()
            return False
        self._active[candidate.index] = run
        return True

    def _turns(self) -> list[_Turn]:
        """Return the next pass: runs with most tokens left first, as long as their sequences fit."""
        turns: list[_Turn] = []
        room = self.allowance.num_tokens
        for index, run in sorted(self._active.items(), key=lambda item: (-item[1].remaining_tokens, item[0])):
            turn = _Turn(index=index, run=run, sequences=run.next_sequences(self.allowance.num_tokens))
            if not turns or turn.num_tokens <= room:
                turns.append(turn)
                room -= turn.num_tokens
        return sorted(turns, key=lambda turn: turn.index)

    def _pass(self, turns: list[_Turn]) -> None:
        start = time.perf_counter()
        losses = _unless_out_of_memory(lambda: self._forward_backward(turns))
        if losses is None:
            self._make_smaller(turns)
            return
        seconds = time.perf_counter() - start
        num_tokens = sum(turn.num_tokens for turn in turns)
        for turn, loss in zip(turns, losses, strict=True):
            turn.run.done(turn.sequences, loss, seconds * turn.num_tokens / num_tokens)
        self._step([turn.index for turn in turns if turn.run.step_is_complete])

    def _forward_backward(self, turns: list[_Turn]) -> list[torch.Tensor]:
        """Add the gradients of the runs' sequences; return each run's weighted loss, []."""
        sequences = [s for turn in turns for s in turn.sequences]
        row = pack(sequences, self.language_model.device)
        counts = [sum(s.num_targets for s in turn.sequences) for turn in turns]
        wide = torch.promote_types(self.language_model.model.dtype, torch.float32)
        each = torch.tensor([turn.run.loss_weight(s) for turn in turns for s in turn.sequences], dtype=wide)
        weights = torch.repeat_interleave(each, torch.tensor(row.num_targets)).to(row.targets.device)
        anchored = self._anchored(sequences, row)
        skipping = self.lower_layers.skipped(sequences) if self.lower_layers is not None else nullcontext()
        model, shares = self.language_model.model, [turn.run.share(turn.sequences) for turn in turns]
        generators = [g for share in shares if share.dropout is not None for g in share.dropout.generators]
        keeping_inputs = gradient_checkpointed(model, generators, enabled=self.gradient_checkpointing)
        with keeping_inputs, skipping, routed(model, shares):
            loss = self.language_model.packed(row, weights, anchored)
            loss.total.backward()  # type: ignore[no-untyped-call]
        return [part.sum() for part in torch.split(loss.losses * weights, counts)]

    def _anchored(self, sequences: Sequence[TokenizedSequence], row: PackedRow) -> Anchored | None:
        """Return the anchored targets of a row with the unadapted model's states there; None where there are none."""
        held = [sequence for sequence in sequences if sequence.anchored]
        if not held:
            return None
        flags = torch.tensor([sequence.anchored for sequence in sequences])
        at = torch.repeat_interleave(flags, torch.tensor(row.num_targets))
        return Anchored(at=at.to(row.targets.device), states=self._unadapted.states(held))

    def _step(self, complete: list[int]) -> None:
        """Take the optimiser steps of the runs whose batch is complete; one transfer from the device for all of them."""
        if not complete:
            return
        measured = torch.stack([self._active[index].clip() for index in complete]).tolist()
        for index, (loss, norm) in zip(complete, measured, strict=True):
            run = self._active[index]
            if not (math.isfinite(loss) and math.isfinite(norm)):
                reason = f"loss {loss}, gradient norm {norm}"
                self._results[index] = Diverged(reason=reason, step=len(run.losses), seconds=run.seconds)
                del self._active[index]
            elif _unless_out_of_memory(lambda run=run, loss=loss: run.step(loss)) is None:  # type: ignore[misc]
                self._park(index)
            elif run.finished:
                self._results[index] = run.result()
                del self._active[index]

    def _make_smaller(self, turns: list[_Turn]) -> None:
        """Halve the tokens per pass after running out of memory; a single sequence waits until all others are done."""
        for turn in turns:
            turn.run.restart_step()
        if sum(len(turn.sequences) for turn in turns) > 1:
            tokens = max(1, sum(turn.num_tokens for turn in turns) // 2)
            self.allowance = Allowance(num_adapters=self.allowance.num_adapters, num_tokens=tokens)
            _logger.warning("out of memory: continuing with %d tokens per pass", tokens)
            return
        self._park(turns[0].index)

    def _park(self, index: int) -> None:
        """Release a run's memory; it restarts when all others are done."""
        self.failed_at_step = len(self._active.pop(index).losses)
        self.did_not_fit.append(self._candidates[index])
        self._take_fewer_adapters()

    def _take_fewer_adapters(self) -> None:
        """Limit the adapters to those in training now."""
        num_adapters = max(1, len(self._active))
        self.allowance = Allowance(num_adapters=num_adapters, num_tokens=self.allowance.num_tokens)
        _logger.warning("out of memory: continuing with %d adapters", num_adapters)


def _unless_out_of_memory(work: Callable[[], ResultT]) -> ResultT | None:
    """Return the result of ``work``, or None where memory ran out; the memory it held is free again then."""
    try:
        return work()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None
