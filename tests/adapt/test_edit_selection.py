"""Selection of edits: one is kept only if it teaches more than the passage alone in as many steps."""

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
def selection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EditSelection:
    case = Case(tmp_path)
    model = {"pretrained": {"source": str(case.model)}}
    overrides = ["--model.domain.init_args.optimizer.batch_size=1", "--model.candidates_per_call=3"]
    module: SealModule = configured(model, [str(case.settings)], overrides).module
    module.configure_model()
    edits = [SelfEdit(task_id=MILL.task_id, edit_index=i, text=text) for i, text in enumerate(TEXTS)]
    runner = module.held_out_runner
    monkeypatch.setattr(runner, "propose", lambda *_: edits)
    work = Workspace(AdaptedFolder(tmp_path / "out"))
    work.begin({})
    module.domain.append_passage = False
    return EditSelection(runner, work, num_edits=len(TEXTS), num_repeats=1, keep=4)


def test_select_compares_at_equal_numbers_of_steps(selection: EditSelection) -> None:
    (selected,) = selection.select([MILL], 0, lambda parts: None)
    steps = {c.edit_index: c.attempts[0].plan.num_steps for c in selected.candidates if c.attempts[0].plan}
    assert steps == {0: 2, 1: 8, 3: 2}
    controls = {index: alone.attempts[0].plan for index, alone in selected.alone.items()}
    assert {index: plan.num_steps for index, plan in controls.items() if plan} == steps
    assert selected.alone[0] is selected.alone[3]
    kept = {edit.edit_index for edit in selected.kept}
    for candidate in selected.candidates:
        alone = selected.alone.get(candidate.edit_index)
        beats = alone is not None and (candidate.reward or 0.0) > (alone.reward or 0.0)
        assert (candidate.edit_index in kept) == beats


def test_select_repeats_a_whole_interrupted_call(selection: EditSelection, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = selection.select([MILL], 0, lambda parts: None)
    stored = dict(selection.work.attempts._attempts)
    (first, *_) = stored
    selection.work.attempts._attempts.pop(first)
    sizes: list[int] = []
    adapt = selection.runner.inner_loop.adapt
    monkeypatch.setattr(
        selection.runner.inner_loop, "adapt", lambda plans, seeds: sizes.append(len(plans)) or adapt(plans, seeds)
    )
    monkeypatch.setattr(selection.work.attempts, "_journal", None)
    again = selection.select([MILL], 0, lambda parts: None)
    assert sizes == [2]  # one of the three edits of the call is malformed
    assert [c.reward for c in again[0].candidates] == [c.reward for c in whole[0].candidates]
