"""A question is asked as an exam asks it, to the token."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal_lightning.adapt.ask.adapted_models import AdaptedModels
from seal_lightning.adapt.ask.adapter_sources import adapter_source
from seal_lightning.adapt.ask.questions import asked_question
from seal_lightning.adapt.record import Asking
from seal_lightning.core import SamplingSpec
from seal_lightning.core.errors import DataError
from seal_lightning.domains.knowledge import KnowledgeDomain
from seal_lightning.domains.knowledge.exam_questions import ExamWording
from seal_lightning.domains.knowledge.passage import Passage, Question


@given(st.text(min_size=1).filter(str.strip), st.text(min_size=1), st.sampled_from(["base", "chat"]))
def test_asked_question_is_the_exams_prompt(question: str, title: str, style: str) -> None:
    asking = Asking(style=style, question="Q:", answer="A:", topic="On:", chat_instruction="Be short.")
    domain = KnowledgeDomain(
        style=style,
        exam_wording=ExamWording(question="Q:", answer="A:", topic="On:", chat_instruction="Be short."),
    )
    passage = Passage.named(
        title=title, context="It is said.", questions=[Question(question_id="1", question=question, answers=("yes",))]
    )
    (exam,) = domain.exam(passage)
    asked = asked_question(question, asking, title)
    assert (asked.prompt, asked.stop) == (exam.prompt, exam.stop)


def test_asked_question_without_a_topic() -> None:
    assert asked_question("Why?", Asking()).prompt == "Question: Why?\nAnswer:"
    assert asked_question("Why?", Asking(), "Stones").prompt == "Topic: Stones\nQuestion: Why?\nAnswer:"
    assert asked_question("Why?", Asking(topic=""), "Stones").prompt == "Question: Why?\nAnswer:"


def test_asked_question_without_an_instruction() -> None:
    (turn,) = asked_question("Why?", Asking(style="chat")).prompt
    assert turn.content == "Question: Why?"  # type: ignore[union-attr]


@pytest.mark.parametrize("question", ["", "  \n", "a\ud800", "\udcff?"])
def test_asked_question_refuses_invalid_text(question: str) -> None:
    with pytest.raises(DataError):
        asked_question(question, Asking())


def test_asked_question_refuses_an_invalid_topic() -> None:
    with pytest.raises(DataError, match="the topic"):
        asked_question("Why?", Asking(), "\udcff")


def test_a_question_beyond_the_context_is_refused(adapted: Path) -> None:
    models = AdaptedModels.load([adapter_source(adapted)])
    with pytest.raises(DataError, match=r"prompt has \d+ tokens; this model's maximum context length is 256"):
        models.answer(asked_question("why " * 300, Asking()), "unadapted", SamplingSpec(temperature=0))


def test_an_answer_ends_at_its_line_and_other_stops(adapted: Path) -> None:
    models = AdaptedModels.load([adapter_source(adapted)])
    asked = asked_question("What is the colour of the stone?", Asking())
    spec = SamplingSpec(temperature=1.5, top_p=1.0, max_new_tokens=60)
    free = models.write(models.prompt_ids(asked.prompt), spec, "minerals", seed=1).text
    assert "\n" in free, "nothing to stop at: take another seed"
    assert models.answer(asked, "adapted", spec, seed=1).text == free[: free.index("\n")].strip()
    letter = free.strip()[0]
    stopped = models.answer(asked, "adapted", replace(spec, stop=(letter,)), seed=1).text
    assert stopped == free[: free.index(letter)].strip()
