"""What was chosen becomes one adapter: learned together (continued pretraining, Table 2), or one by one with merges (§5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from seal_lightning.adapt.anchoring import Anchoring
from seal_lightning.adapt.edit_selection import SelectedEdit
from seal_lightning.adapt.workspace import TakenStep, Workspace
from seal_lightning.core import AdaptationPlan, Adapted, Diverged
from seal_lightning.core.errors import ModelError, RunError
from seal_lightning.core.seeds import derive_seed
from seal_lightning.distributed import interruption
from seal_lightning.evaluation.merging import Merging
from seal_lightning.evaluation.training_sets import StepPlan, joined_plan
from seal_lightning.inner_loop.whole_weights import scratch_weights
from seal_lightning.models.lora import LoraAdapter, load_adapter, save_adapter, sum_adapters
from seal_lightning.storage.atomic_files import placing_folder
from seal_lightning.training.module import SealModule

ADAPTED = "adapted"
CONTROL = "passages-only"


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The update that one course of training made of the model."""

    adapter: LoraAdapter
    steps: tuple[TakenStep, ...]

    @property
    def num_steps(self) -> int:
        """Optimiser steps."""
        return sum(step.num_steps for step in self.steps)


class Learning:
    """Trains, and keeps what was trained.

    Args:
        module: the model and how it learns.
        work: where updates are kept.
        anchor: what holds the model to what it says elsewhere.
        control: whether the passages alone are learned too.
    """

    def __init__(self, module: SealModule, work: Workspace, anchor: Anchoring, *, control: bool) -> None:
        self.module = module
        self.work = work
        self.anchor = anchor
        self.control = control
        self.taken = {step.name: step for step in work.steps.read()}

    # --- all at once

    def together(self, choices: Sequence[SelectedEdit], advance: Callable[[int], None]) -> dict[str, Learned]:
        """One training on everything that was kept, and beside it, in as many steps, one on the passages alone.

        By course; the control is missing where it diverged. ``advance`` hears of the steps of both. Raises
        :class:`RunError` where the adaptation itself diverged.
        """
        courses = self.planned(choices)
        missing = {name: plan for name, plan in courses.items() if name not in self.taken}
        plans = {name: plan.plan for name, plan in missing.items() if plan.plan is not None}
        if plans:
            seed = derive_seed(self.module.seed, "adapt", "together")
            with interruption.checked_with(_every_step(advance)):
                outcomes = self.module.inner_loop.adapt(list(plans.values()), [seed] * len(plans))
            for name, outcome in zip(plans, outcomes, strict=True):
                self._keep(name, outcome)
        return {name: learned for name in courses if (learned := self._learned(name, [name])) is not None}

    def planned(self, choices: Sequence[SelectedEdit]) -> dict[str, StepPlan]:
        """The training sets, by course."""
        domain, change = self.module.domain, self._changed
        everything = joined_plan(domain, [(c.passage, c.kept or None) for c in choices], change)
        courses = {ADAPTED: everything}
        if self.control and everything.plan is not None:
            alone = joined_plan(domain, [(c.passage, None) for c in choices], change)
            courses[CONTROL] = alone.limited(everything.plan.num_steps)
        return courses

    def _changed(self, plan: AdaptationPlan) -> AdaptationPlan:
        return self.anchor(self.module.protocol.plan(plan))

    # --- one after another

    def one_by_one(
        self,
        num_passages: int,
        choose: Callable[[int], SelectedEdit],
        advance: Callable[[int], None],
    ) -> dict[str, Learned]:
        """A step and a merge for each passage; the next edit is written by the merged model.

        The control comes after, passage by passage alone. ``choose`` is asked for each passage's choice when its turn has
        come; ``advance`` hears of each passage.
        """
        choices: list[SelectedEdit] = []
        num_steps: dict[int, int] = {}
        names: dict[str, list[str]] = {}
        for course in (ADAPTED, *[CONTROL] * self.control):
            names[course] = []
            with scratch_weights(self.module.learner):
                merging = Merging(self.module.learner, self.module.protocol.against_forgetting)
                for place in range(num_passages):
                    if course == ADAPTED:
                        choices.append(choose(place))
                    name = f"{course}-{place:04d}"
                    names[course].append(name)
                    planned = self._planned_step(choices[place], course, num_steps.get(place))
                    self._take(name, planned, place, merging)
                    num_steps[place] = self.taken[name].num_steps
                    advance(1)
        return {course: learned for course, steps in names.items() if (learned := self._learned(course, steps))}

    def _planned_step(self, choice: SelectedEdit, course: str, num_steps: int | None) -> StepPlan:
        kept = choice.kept if course == ADAPTED else ()
        planned = joined_plan(self.module.domain, [(choice.passage, kept or None)], self._changed)
        return planned if course == ADAPTED else planned.limited(num_steps)

    def _take(self, name: str, planned: StepPlan, place: int, merging: Merging) -> None:
        """Learn one step and merge it, or merge again what was learned before."""
        if planned.plan is None:
            self._remember(TakenStep(name=name, merged=False, num_steps=0, num_tokens=0, final_loss=None))
            return
        seed = derive_seed(self.module.seed, "adapt", "step", place)
        plan = merging.prepared(planned.plan, seed)
        if name in self.taken:
            if self.taken[name].merged:
                merging.merge_again(plan, self._loaded(name))
            return
        (outcome,) = self.module.inner_loop.adapt([plan], [seed])
        if isinstance(outcome, Adapted):
            merging.merge(plan, outcome.adapter)
        self._keep(name, outcome, merging.merged if isinstance(outcome, Adapted) else None)

    # --- what is kept

    def _keep(self, name: str, outcome: Adapted | Diverged, merged: object = ...) -> None:
        """Store what a piece of training gave; ``merged`` is what of it counts, by default all."""
        if isinstance(outcome, Diverged):
            step = TakenStep(
                name=name, merged=False, num_steps=0, num_tokens=0, final_loss=None, failure=outcome.reason
            )
            self._remember(step)
            return
        adapter = outcome.adapter if merged is ... else merged
        if isinstance(adapter, LoraAdapter):
            if not all(tensor.isfinite().all() for tensor in adapter.tensors()):
                raise ModelError(f"{name}: the trained adapter is not finite; it was not kept. {_LOWER}")
            with placing_folder(self.work.update_folder(name)) as folder:
                save_adapter(adapter, folder, base_model=self.module.pretrained.location())
        self._remember(
            TakenStep(
                name=name,
                merged=isinstance(adapter, LoraAdapter),
                num_steps=len(outcome.losses),
                num_tokens=outcome.num_tokens,
                final_loss=outcome.losses[-1],
            )
        )

    def _remember(self, step: TakenStep) -> None:
        if step.name not in self.taken:
            self.taken[step.name] = self.work.steps.append(step)

    def _loaded(self, name: str) -> LoraAdapter:
        learner = self.module.learner
        return load_adapter(learner.model, self.work.update_folder(name)).detached_copy(learner.device)

    def _learned(self, course: str, names: Sequence[str]) -> Learned | None:
        """The course's updates as one; None of a control that has none."""
        steps = tuple(self.taken[name] for name in names if name in self.taken)
        updates = [self._loaded(step.name) for step in steps if step.merged]
        if updates:
            return Learned(adapter=updates[0] if len(updates) == 1 else sum_adapters(updates), steps=steps)
        if course == ADAPTED:
            reason = next((step.failure for step in steps if step.failure), "there was nothing to learn")
            raise RunError(f"nothing was learned: {reason}. What was written and tried is kept. {_LOWER}")
        return None


_LOWER = (
    "Lower model.protocol.init_args.optimizer.learning_rate (or of model.domain) and start again with another --out"
)


def _every_step(advance: Callable[[int], None]) -> Callable[[], None]:
    """Inner loops ask whether they shall end between their steps: the only word they give before the end."""
    return lambda: advance(1)
