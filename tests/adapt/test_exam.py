"""The probe of general knowledge."""

from __future__ import annotations

from seal_lightning.adapt.exam import probe_exam


def test_probe_exam_has_48_single_question_passages() -> None:
    exam = probe_exam()
    assert len({one.passage.task_id for one in exam}) == 48
    assert {(one.exam, one.by, one.passage.title) for one in exam} == {("probe", "this package", "General knowledge")}
    answers = {question.question_id: question.answers for one in exam for question in one.passage.questions}
    assert len(answers) == 48
    assert answers["capital-france"] == ("Paris",)
    assert answers["difference-ten-four"] == ("six",)
