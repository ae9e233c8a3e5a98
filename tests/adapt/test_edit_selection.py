"""An edit is kept only where it teaches more than the passage alone in as many steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from adaptations import Case

from seal_lightning.adapt.configuration import configured
from seal_lightning.adapt.edit_selection import EditSelection
from seal_lightning.adapt.record import AdaptedFolder
from seal_lightning.adapt.workspace import Workspace
from seal_lightning.core import SelfEdit
from seal_lightning.domains.knowledge import Passage, Question
from seal_lightning.training.module import SealModule

MILL = Passage.named(
    title="The mill",
    context="Tomas Helgren built the mill in 1742.",
    questions=[Question(question_id="a", question="Who built the mill?", answers=("Tomas Helgren",))],
)
TEXTS = ("One.", "One.\nTwo.\nThree.\nFour.", "", "Another one.")


@pytest.fixture
def trying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EditSelection:
    case = Case(tmp_path)
    model = {"pretrained": {"source": str(case.model)}}
    module: SealModule = configured(
        model, [str(case.settings)], ["--model.domain.init_args.optimizer.batch_size=1"]
    ).module
    module.configure_model()
    edits = [SelfEdit(task_id=MILL.task_id, edit_index=i, text=text) for i, text in enumerate(TEXTS)]
    runner = module.held_out_runner
    monkeypatch.setattr(runner, "propose", lambda *_: edits)
    work = Workspace(AdaptedFolder(tmp_path / "out"))
    work.begin({})
    module.domain.append_passage = False
    return EditSelection(runner, work, num_edits=len(TEXTS), num_repeats=1, at_once=3, keep=4)


def test_each_edit_has_a_control_of_its_own_steps(trying: EditSelection) -> None:
    (choice,) = trying.choices([MILL], 0, lambda parts: None)
    steps = {c.edit_index: c.attempts[0].plan.num_steps for c in choice.candidates if c.attempts[0].plan}
    assert steps == {0: 2, 1: 8, 3: 2}
    controls = {index: alone.attempts[0].plan for index, alone in choice.alone.items()}
    assert {index: plan.num_steps for index, plan in controls.items() if plan} == steps
    assert choice.alone[0] is choice.alone[3]
    kept = {edit.edit_index for edit in choice.kept}
    for candidate in choice.candidates:
        alone = choice.alone.get(candidate.edit_index)
        beats = alone is not None and (candidate.reward or 0.0) > (alone.reward or 0.0)
        assert (candidate.edit_index in kept) == beats


def test_what_was_cut_short_is_computed_in_the_same_company(
    trying: EditSelection, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trying.choices([MILL], 0, lambda parts: None)
    stored = dict(trying.work.attempts._attempts)
    (first, *_) = stored
    trying.work.attempts._attempts.pop(first)
    companies: list[int] = []
    adapt = trying.runner.inner_loop.adapt
    monkeypatch.setattr(
        trying.runner.inner_loop, "adapt", lambda plans, seeds: companies.append(len(plans)) or adapt(plans, seeds)
    )
    monkeypatch.setattr(trying.work.attempts, "_journal", None)
    again = trying.choices([MILL], 0, lambda parts: None)
    assert companies == [2], "one of the three edits is malformed"
    assert [c.reward for c in again[0].candidates] == [c.reward for c in whole[0].candidates]
