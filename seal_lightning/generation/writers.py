"""The policy as a writer of self-edits: SE ~ LM_θ(· | C), §3.1; freely, or with some of a schema's choices fixed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from seal_lightning.core import AdaptationPlan, Choice, GenerationRequest, SamplingSpec, SelfEdit, Task, fill_choices
from seal_lightning.core.errors import ConfigError, MalformedEdit, require, shown
from seal_lightning.core.interfaces import AnyDomain, Engine, Writer
from seal_lightning.core.seeds import derive_seed


class PolicyWriter(Writer):
    """Samples edits from the engine's model, all edits of all given tasks in one call.

    Args:
        domain: makes the prompts, and finds malformed edits.
        engine: generates with the policy.
        sampling: settings for sampling edits.
        num_retries: ≥ 0, how often malformed edits are sampled again, all of them in one call; the last sample is kept.
            With 0 edits are not checked.
        plan: plans an edit and raises for a malformed one; the domain's own method by default.

    Example:
        >>> from seal_lightning.domains.knowledge import KnowledgeDomain
        >>> from seal_lightning.generation import TransformersEngine
        >>> writer = PolicyWriter(KnowledgeDomain(), TransformersEngine(), SamplingSpec(max_new_tokens=64), num_retries=2)
        >>> writer.write([], num_edits=4, seeds={})  # one edit for each (task, index), in order
        []
    """

    def __init__(
        self,
        domain: AnyDomain,
        engine: Engine,
        sampling: SamplingSpec,
        num_retries: int = 0,
        plan: Callable[[Task, SelfEdit], AdaptationPlan] | None = None,
    ) -> None:
        self.domain = domain
        self.plan = plan or domain.plan
        self.engine = engine
        self.sampling = sampling
        self.num_retries = num_retries
        self.tokens_per_second: float | None = None
        """Of the last call, including rejected edits."""

    def write(self, tasks: Sequence[Task], num_edits: int, seeds: Mapping[tuple[str, int], int]) -> Sequence[SelfEdit]:
        """Return ``num_edits`` edits for each task, task by task; ``seeds`` are by (task id, edit index)."""
        slots = [(task, index) for task in tasks for index in range(num_edits)]
        prompts = {task.task_id: self._request(task) for task in tasks}
        requests = [replace(prompts[task.task_id], seed=seeds[task.task_id, index]) for task, index in slots]
        start = time.perf_counter()
        edits = self._generate(slots, requests)
        num_tokens = sum(len(edit.token_ids) for edit in edits)
        unchecked = list(range(len(slots)))
        for retry in range(1, self.num_retries + 1):
            malformed = {
                i: kind for i in unchecked if (kind := self._malformed_kind(slots[i][0], edits[i])) is not None
            }
            if not malformed:
                break
            seeded = [replace(requests[i], seed=derive_seed(requests[i].seed, "retry", retry)) for i in malformed]
            again = self._generate([slots[i] for i in malformed], seeded)
            num_tokens += sum(len(edit.token_ids) for edit in again)
            for (i, kind), edit in zip(malformed.items(), again, strict=True):
                edits[i] = replace(edit, seed=requests[i].seed, rejected=(*edits[i].rejected, kind))
            unchecked = list(malformed)
        self.tokens_per_second = num_tokens / (time.perf_counter() - start)
        return edits

    def write_with_choices(
        self, tasks: Sequence[Task], choices: Sequence[Mapping[str, str]], seeds: Sequence[int]
    ) -> list[SelfEdit]:
        """Return one edit for each task, with some of its schema's choices fixed: options by name.

        For searches and controls; malformed edits are not sampled again.
        """
        requests = []
        for task, fixed, seed in zip(tasks, choices, seeds, strict=True):
            request = self._request(task)
            schema = None if request.schema is None else fill_choices(request.schema, fixed)
            requests.append(replace(request, schema=schema, seed=seed))
        edits = self._generate([(task, index) for index, task in enumerate(tasks)], requests)
        return [replace(e, directives={**fixed, **e.directives}) for e, fixed in zip(edits, choices, strict=True)]

    def _request(self, task: Task) -> GenerationRequest:
        """Return the request for a task's edit, without its seed."""
        sampling = replace(self.sampling, stop=(*self.sampling.stop, *self.domain.edit_stop()))
        return GenerationRequest(
            prompt=self.domain.edit_prompt(task), sampling=sampling, schema=self.domain.edit_schema(task)
        )

    def _malformed_kind(self, task: Task, edit: SelfEdit) -> str | None:
        try:
            self.plan(task, edit)
        except MalformedEdit as error:
            return error.kind
        return None

    def _generate(self, slots: Sequence[tuple[Task, int]], requests: Sequence[GenerationRequest]) -> list[SelfEdit]:
        """Return one edit for each (task, edit index), from one call of the engine."""
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


class FixedChoices(Writer):
    """The policy with fixed choices of its schema; it still writes the free text behind them, if any.

    With the best choices that a search found (``seal search``), this is the control of update directives: the settings that
    a person would have chosen.

    Args:
        choices: options by the choice's name, as the schema has them (leading blanks do not count); the policy makes the
            other choices.
        sampling: settings for sampling the free text; None: those of the policy in the run.
        num_retries: 0 to 100, how often a malformed edit is sampled again, as ``model.edit_retries`` for the policy.
        num_edits: ≥ 1, edits per task; None: as many as a test takes from the policy. Without free text, 1 is enough.

    Example:
        >>> FixedChoices({"epochs": "8", "learning_rate": "1e-4"}, num_edits=1).choices["epochs"]
        '8'
    """

    def __init__(
        self,
        choices: dict[str, str],
        sampling: SamplingSpec | None = None,
        num_retries: int = 0,
        num_edits: int | None = None,
    ) -> None:
        require(num_edits is None or num_edits >= 1, "FixedChoices.num_edits", num_edits, "at least 1, or null")
        require(0 <= num_retries <= 100, "FixedChoices.num_retries", num_retries, "0 to 100")
        self.choices = choices
        self.sampling = sampling
        self.num_retries = num_retries
        self.num_edits = num_edits

    def bind(self, domain: AnyDomain, engine: Engine, sampling: SamplingSpec | None = None) -> None:
        """Write with this engine's model."""
        self.domain = domain
        self.policy = PolicyWriter(domain, engine, self.sampling or sampling or SamplingSpec(), self.num_retries)

    def write(self, tasks: Sequence[Task], num_edits: int, seeds: Mapping[tuple[str, int], int]) -> Sequence[SelfEdit]:
        """Return ``num_edits`` edits for each task, task by task. Raises as :meth:`check`."""
        slots = [(task, index) for task in tasks for index in range(num_edits)]
        edits = self.policy.write_with_choices(
            [task for task, _ in slots],
            [self._choices(task) for task, _ in slots],
            [seeds[task.task_id, index] for task, index in slots],
        )
        return [replace(edit, edit_index=index) for (_, index), edit in zip(slots, edits, strict=True)]

    def check(self, tasks: Sequence[Task], num_edits: int) -> None:
        """Raise :class:`ConfigError` for choices that a task's schema does not have."""
        for task in tasks:
            self._choices(task)

    def _choices(self, task: Task) -> dict[str, str]:
        """Return the choices with the schema's own spelling of each option."""
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
