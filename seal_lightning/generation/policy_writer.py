"""The policy writes its own self-edits: SE ~ LM_θ(· | C), §3.1."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from seal_lightning.core import GenerationRequest, SamplingSpec, SelfEdit, Task, fill_choices
from seal_lightning.core.errors import MalformedEdit
from seal_lightning.core.interfaces import AnyDomain, Engine, Writer
from seal_lightning.core.seeds import derive_seed


class PolicyWriter(Writer):
    """Samples edits from the engine's model, all edits of all given tasks in one call.

    Args:
        domain: asks for edits and says which are malformed.
        engine: asks the policy.
        sampling: how edits are sampled.
        num_retries: ≥ 0, how often an edit the domain refuses is sampled again, all refused ones in one call; the last
            one stays. With 0 the domain is not asked.
    """

    def __init__(self, domain: AnyDomain, engine: Engine, sampling: SamplingSpec, num_retries: int = 0) -> None:
        self.domain = domain
        self.engine = engine
        self.sampling = sampling
        self.num_retries = num_retries
        self.tokens_per_second: float | None = None
        """Of the last call, edits thrown away included."""

    def write(self, tasks: Sequence[Task], num_edits: int, seeds: Mapping[tuple[str, int], int]) -> Sequence[SelfEdit]:
        """``num_edits`` edits for each task, task by task; ``seeds`` are by (task id, edit index)."""
        slots = [(task, index) for task in tasks for index in range(num_edits)]
        prompts = {task.task_id: self._request(task) for task in tasks}
        requests = [replace(prompts[task.task_id], seed=seeds[task.task_id, index]) for task, index in slots]
        start = time.perf_counter()
        edits = self._written(slots, requests)
        num_tokens = sum(len(edit.token_ids) for edit in edits)
        open_slots = list(range(len(slots)))
        for retry in range(1, self.num_retries + 1):
            refused = {i: kind for i in open_slots if (kind := self._refusal(slots[i][0], edits[i])) is not None}
            if not refused:
                break
            seeded = [replace(requests[i], seed=derive_seed(requests[i].seed, "retry", retry)) for i in refused]
            again = self._written([slots[i] for i in refused], seeded)
            num_tokens += sum(len(edit.token_ids) for edit in again)
            for (i, kind), edit in zip(refused.items(), again, strict=True):
                edits[i] = replace(edit, seed=requests[i].seed, rejected=(*edits[i].rejected, kind))
            open_slots = list(refused)
        self.tokens_per_second = num_tokens / (time.perf_counter() - start)
        return edits

    def write_with_choices(
        self, tasks: Sequence[Task], choices: Sequence[Mapping[str, str]], seeds: Sequence[int]
    ) -> list[SelfEdit]:
        """An edit for each of the tasks, of whose schema's choices some are made for it: options by name.

        For searches and controls; a malformed edit is not sampled again.
        """
        requests = []
        for task, made, seed in zip(tasks, choices, seeds, strict=True):
            request = self._request(task)
            schema = None if request.schema is None else fill_choices(request.schema, made)
            requests.append(replace(request, schema=schema, seed=seed))
        edits = self._written([(task, index) for index, task in enumerate(tasks)], requests)
        return [replace(e, directives={**made, **e.directives}) for e, made in zip(edits, choices, strict=True)]

    def _request(self, task: Task) -> GenerationRequest:
        """What asks for a task's edit, but for its seed."""
        sampling = replace(self.sampling, stop=(*self.sampling.stop, *self.domain.edit_stop()))
        return GenerationRequest(
            prompt=self.domain.edit_prompt(task), sampling=sampling, schema=self.domain.edit_schema(task)
        )

    def _refusal(self, task: Task, edit: SelfEdit) -> str | None:
        """The kind of a malformed edit."""
        try:
            self.domain.plan(task, edit)
        except MalformedEdit as error:
            return error.kind
        return None

    def _written(self, slots: Sequence[tuple[Task, int]], requests: Sequence[GenerationRequest]) -> list[SelfEdit]:
        """One edit a slot (task and edit index), in one call of the engine."""
        return [
            SelfEdit(
                task_id=task.task_id,
                edit_index=index,
                text=completion.text,
                token_ids=completion.token_ids,
                chosen=completion.chosen,
                log_prob=completion.log_prob,
                finish_reason=completion.finish_reason,
                seed=request.seed,
                directives=dict(completion.choices or {}),
            )
            for (task, index), completion, request in zip(slots, self.engine.generate(requests), requests, strict=True)
        ]
