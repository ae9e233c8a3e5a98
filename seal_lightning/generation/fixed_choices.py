"""The policy as a writer whose choices are made for it: what reinforced directives are to be compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from seal_lightning.core import Choice, SamplingSpec, SelfEdit, Task
from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.core.interfaces import AnyDomain, Engine, Writer
from seal_lightning.generation.policy_writer import PolicyWriter


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
