"""The policy writes its own self-edits: SE ~ LM_θ(· | C), §3.1."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from seal_lightning.core import Choice, GenerationRequest, SamplingSpec, SelfEdit, Task, fill_choices
from seal_lightning.core.errors import ConfigError, MalformedEdit, shown
from seal_lightning.core.interfaces import AnyDomain, Engine, Writer
from seal_lightning.core.seeds import derive_seed


class FixedChoices(Writer):
    """Every edit has the same choices in its schema; the free text behind them, if any, is the model's.

    With the best ones that a search found (``seal search``) this is the control of update directives: what a person would
    have set.

    Args:
        choices: options by the choice's name, as the schema has them (leading blanks do not count); choices that are not
            here stay the model's.
        sampling: how the free text is sampled; None is as the run samples the policy's.
        num_retries: ≥ 0, how often a malformed edit is written again, as ``model.edit_retries`` is for the policy.
        num_edits: ≥ 1, edits a task; None is as many as a test asks of the policy. Where no text is free, 1 tells all.
    """

    def __init__(
        self,
        choices: dict[str, str],
        sampling: SamplingSpec | None = None,
        num_retries: int = 0,
        num_edits: int | None = None,
    ) -> None:
        if num_edits is not None and num_edits < 1:
            raise ConfigError(f"FixedChoices: num_edits is {num_edits}; allowed is null, or 1 or more")
        if not 0 <= num_retries <= 100:
            raise ConfigError(f"FixedChoices: num_retries is {num_retries}; allowed is 0 to 100")
        self.choices = choices
        self.sampling = sampling
        self.num_retries = num_retries
        self.num_edits = num_edits

    def bind(self, domain: AnyDomain, engine: Engine, sampling: SamplingSpec | None = None) -> None:
        """Write as this engine's model."""
        self.domain = domain
        self.policy = PolicyWriter(domain, engine, self.sampling or sampling or SamplingSpec(), self.num_retries)

    def write(self, tasks: Sequence[Task], num_edits: int, seeds: Mapping[tuple[str, int], int]) -> Sequence[SelfEdit]:
        """``num_edits`` edits for each task, task by task. Raises :class:`ConfigError` for what the schema does not have."""
        slots = [(task, index) for task in tasks for index in range(num_edits)]
        edits = self.policy.write_with_choices(
            [task for task, _ in slots],
            [self._choices(task) for task, _ in slots],
            [seeds[task.task_id, index] for task, index in slots],
        )
        return [replace(edit, edit_index=index) for (_, index), edit in zip(slots, edits, strict=True)]

    def check(self, tasks: Sequence[Task], num_edits: int) -> None:
        """Refuse choices that the schema does not have. Raises :class:`ConfigError`."""
        for task in tasks:
            self._choices(task)

    def _choices(self, task: Task) -> dict[str, str]:
        """By name, the schema's own spelling of each option."""
        schema = self.domain.edit_schema(task) or ()
        menus = {
            part.name: {option.strip(): option for option in part.options}
            for part in schema
            if isinstance(part, Choice)
        }
        for name, option in self.choices.items():
            if option.strip() not in menus.get(name, {}):
                allowed = ", ".join(menus[name]) if name in menus else f"the choices {', '.join(menus) or '(none)'}"
                raise ConfigError(f"FixedChoices: {name} is {shown(option)}; allowed: {allowed}")
        return {name: menus[name][option.strip()] for name, option in self.choices.items()}


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
