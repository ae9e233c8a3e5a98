"""Final training: selected edits become one adapter, in one training (continued pretraining, Table 2) or one by one (§5).

An anchor keeps the model close to what it says elsewhere. It needs no data: the model itself wrote the anchor texts, before
it learned anything, and the inner loop's KL term holds its distribution on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from seal_lightning.adapt.configuration import AdaptSpec
from seal_lightning.adapt.edit_selection import SelectedEdit
from seal_lightning.adapt.workspace import AnchorText, CompletedStep, Workspace
from seal_lightning.core import (
    AdaptationPlan,
    Adapted,
    Adapter,
    AnchorSpec,
    Diverged,
    GenerationRequest,
    SamplingSpec,
    Segment,
    TrainingSequence,
)
from seal_lightning.core.errors import ConfigError, ModelError, RunError
from seal_lightning.core.seeds import derive_seed
from seal_lightning.distributed import interruption
from seal_lightning.evaluation.steps import EpisodeMerges
from seal_lightning.evaluation.training_sets import StepPlan, joined_plan
from seal_lightning.inner_loop.whole_weights import scratch_weights
from seal_lightning.models.lora import LoraAdapter, load_adapter, save_adapter, sum_adapters
from seal_lightning.storage.atomic_files import placing_folder
from seal_lightning.training.module import SealModule

ADAPTED = "adapted"
CONTROL = "passages-only"
"""Names of the two trainings: on the kept edits with their passages, and in as many steps on the passages alone."""

OPENINGS = ("Question:", "The")
"""Prompts of the anchor texts, in turn."""
ANCHOR_TOKENS = 48
"""Most tokens that are sampled for an anchor text."""
_ANCHOR_SAMPLING = SamplingSpec(temperature=1.0, top_p=0.95, max_new_tokens=ANCHOR_TOKENS)
_ANCHOR_BATCH = 4
ANCHOR_TOKENS_PER_STEP = _ANCHOR_BATCH * ANCHOR_TOKENS
_LOWER_RATE = (
    "Lower model.protocol.init_args.optimizer.learning_rate (or of model.domain) and start again with another --out"
)


def anchor_spec(module: SealModule, spec: AdaptSpec, work: Workspace) -> AnchorSpec | None:
    """Return the anchor on the stored texts, or on new ones by the model as it is now; None if it is disabled.

    Raises :class:`ConfigError` for an inner loop without an anchor.
    """
    if not spec.anchor_weight:
        return None
    if not module.inner_loop.uses_anchor:
        raise ConfigError(
            f"adapt.anchor_weight: {type(module.inner_loop).__name__} has no anchor; set the weight to 0, or use "
            "seal_lightning.inner_loop.BatchedInnerLoop"
        )
    if not (texts := work.anchor.read()):
        openings = [OPENINGS[index % len(OPENINGS)] for index in range(spec.anchor_texts)]
        requests = [
            GenerationRequest(prompt=opening, sampling=_ANCHOR_SAMPLING, seed=derive_seed(module.seed, "anchor", index))
            for index, opening in enumerate(openings)
        ]
        completions = module.engine.generate(requests)
        texts = [AnchorText(text=f"{opening}{one.text}") for opening, one in zip(openings, completions, strict=True)]
        work.anchor.write(texts)
    sequences = tuple(TrainingSequence(segments=(Segment(text=one.text),)) for one in texts)
    return AnchorSpec(sequences=sequences, weight=spec.anchor_weight, batch_size=min(_ANCHOR_BATCH, len(sequences)))


Updates = tuple[LoraAdapter, LoraAdapter | None]
"""The update of the adaptation, and of its control; None without a control, or if that diverged."""


class FinalTraining:
    """Trains on the selected edits, and stores every update.

    Args:
        module: the model and its settings.
        work: the store of updates.
        anchor: the anchor of plans that have none of their own; None for no anchor.
        control: whether the passages alone are learned too.
    """

    def __init__(self, module: SealModule, work: Workspace, anchor: AnchorSpec | None, *, control: bool) -> None:
        self.module = module
        self.work = work
        self.anchor = anchor
        self.control = control
        self.completed = {step.name: step for step in work.steps.read()}

    # --- all edits in one training

    def together(self, selected: Sequence[SelectedEdit], advance: Callable[[int], None]) -> Updates:
        """Train once on everything that was kept and, in the same call and as many steps, on the passages alone.

        ``advance`` is called for every step of both. Raises :class:`RunError` if the adaptation itself diverged.
        """
        planned = self.planned(selected)
        plans = {n: step.plan for n, step in planned.items() if n not in self.completed and step.plan is not None}
        if plans:
            seed = derive_seed(self.module.seed, "adapt", "together")
            # Inner loops call the interruption check between steps, and report nothing else before their end.
            with interruption.extra_check(lambda: advance(1)):
                outcomes = self.module.inner_loop.adapt(list(plans.values()), [seed] * len(plans))
            for name, outcome in zip(plans, outcomes, strict=True):
                self._store(name, outcome, outcome.adapter if isinstance(outcome, Adapted) else None)
        return self._updates({name: [name] for name in planned})

    def planned(self, selected: Sequence[SelectedEdit]) -> dict[str, StepPlan]:
        """Return the training set per training."""
        domain = self.module.domain
        everything = joined_plan(domain, [(one.passage, one.kept or None) for one in selected], self._change)
        planned = {ADAPTED: everything}
        if self.control and everything.plan is not None:
            alone = joined_plan(domain, [(one.passage, None) for one in selected], self._change)
            planned[CONTROL] = alone.limited(everything.plan.num_steps)
        return planned

    def _change(self, plan: AdaptationPlan) -> AdaptationPlan:
        """Apply the protocol's settings, and the anchor if the plan has none of its own."""
        plan = self.module.protocol.plan(plan)
        return plan if self.anchor is None or plan.anchor is not None else replace(plan, anchor=self.anchor)

    # --- one after another

    def one_by_one(
        self, num_passages: int, select: Callable[[int], SelectedEdit], advance: Callable[[int], None]
    ) -> Updates:
        """Train on each passage and merge its update, so that the merged model writes the next edits; then the control.

        ``select`` is called with a passage's index when its turn has come; ``advance`` is called for every passage.
        """
        selected: list[SelectedEdit] = []
        num_steps: dict[int, int] = {}
        names: dict[str, list[str]] = {}
        for training in (ADAPTED, *[CONTROL] * self.control):
            names[training] = []
            with scratch_weights(self.module.learner):
                merging = EpisodeMerges(self.module.learner, self.module.protocol.against_forgetting)
                for index in range(num_passages):
                    if training == ADAPTED:
                        selected.append(select(index))
                    name = f"{training}-{index:04d}"
                    names[training].append(name)
                    kept = selected[index].kept if training == ADAPTED else ()
                    step = joined_plan(self.module.domain, [(selected[index].passage, kept or None)], self._change)
                    self._train_and_merge(name, step.limited(num_steps.get(index)), index, merging)
                    num_steps[index] = self.completed[name].num_steps
                    advance(1)
        return self._updates(names)

    def _train_and_merge(self, name: str, step: StepPlan, index: int, merging: EpisodeMerges) -> None:
        """Train on one passage and merge the update, or merge a stored one again."""
        if step.plan is None:
            self._remember(CompletedStep(name=name, merged=False, num_steps=0))
            return
        seed = derive_seed(self.module.seed, "adapt", "step", index)
        plan = merging.prepared(step.plan, seed)
        if name in self.completed:
            if self.completed[name].merged:
                merging.merge_again(plan, self._load(name))
            return
        (outcome,) = self.module.inner_loop.adapt([plan], [seed])
        if isinstance(outcome, Adapted):
            merging.merge(plan, outcome.adapter)
        self._store(name, outcome, merging.merged if isinstance(outcome, Adapted) else None)

    # --- stored updates

    def _store(self, name: str, outcome: Adapted | Diverged, update: Adapter | None) -> None:
        """Store the outcome of a training, and the part of its update that counts; None if a gate refused it."""
        if isinstance(update, LoraAdapter):
            if not all(tensor.isfinite().all() for tensor in update.tensors()):
                raise ModelError(f"{name}: the trained adapter is not finite, so it was not stored. {_LOWER_RATE}")
            with placing_folder(self.work.update_folder(name)) as folder:
                save_adapter(update, folder, base_model=self.module.pretrained.location())
        self._remember(
            CompletedStep(
                name=name,
                merged=isinstance(update, LoraAdapter),
                num_steps=len(outcome.losses) if isinstance(outcome, Adapted) else 0,
                failure=outcome.reason if isinstance(outcome, Diverged) else None,
            )
        )

    def _remember(self, step: CompletedStep) -> None:
        if step.name not in self.completed:
            self.completed[step.name] = self.work.steps.append(step)

    def _load(self, name: str) -> LoraAdapter:
        learner = self.module.learner
        return load_adapter(learner.model, self.work.update_folder(name)).detached_copy(learner.device)

    def _updates(self, names: Mapping[str, Sequence[str]]) -> Updates:
        """Sum the updates of each training's steps."""
        found = {}
        for training, steps in names.items():
            updates = [self._load(name) for name in steps if name in self.completed and self.completed[name].merged]
            if updates:
                found[training] = updates[0] if len(updates) == 1 else sum_adapters(updates)
        if ADAPTED not in found:
            failures = (self.completed[name].failure for name in names[ADAPTED] if name in self.completed)
            reason = next(filter(None, failures), "no passage gave anything to train on")
            raise RunError(f"nothing was learned: {reason}. {_LOWER_RATE}")
        return found[ADAPTED], found.get(CONTROL)
