"""The policy writes its own self-edits: SE ~ LM_θ(· | C), §3.1."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from seal_lightning.seams import AnyDomain, Engine, Writer
from seal_lightning.types import GenerationRequest, SamplingSpec, SelfEdit, Task


class PolicyWriter(Writer):
    """Samples edits from the engine's model, all edits of all given tasks in one call."""

    def __init__(self, domain: AnyDomain, engine: Engine, sampling: SamplingSpec) -> None:
        self.domain = domain
        self.engine = engine
        self.sampling = sampling
        self.tokens_per_second: float | None = None
        """Of the last call."""

    def write(self, tasks: Sequence[Task], num_edits: int, seeds: Mapping[tuple[str, int], int]) -> Sequence[SelfEdit]:
        """``num_edits`` edits for each task, task by task; ``seeds`` are by (task id, edit index)."""
        sampling = replace(self.sampling, stop=(*self.sampling.stop, *self.domain.edit_stop()))
        slots = [(task, index) for task in tasks for index in range(num_edits)]
        requests = [
            GenerationRequest(prompt=self.domain.edit_prompt(task), sampling=sampling, seed=seeds[task.task_id, index])
            for task, index in slots
        ]
        start = time.perf_counter()
        completions = self.engine.generate(requests)
        self.tokens_per_second = sum(len(c.token_ids) for c in completions) / (time.perf_counter() - start)
        return [
            SelfEdit(
                task_id=task.task_id,
                edit_index=index,
                text=completion.text,
                token_ids=completion.token_ids,
                finish_reason=completion.finish_reason,
                seed=request.seed,
            )
            for (task, index), completion, request in zip(slots, completions, requests, strict=True)
        ]
