"""The domain: what an edit means, its caps and refusals, the exam, and the configuration."""

import dataclasses
import re

import pytest
from jsonargparse import ArgumentParser

from seal_lightning.core import AdapterSpec, ChatMessage, OptimizerSpec
from seal_lightning.core.errors import ConfigError, MalformedEdit
from seal_lightning.core.interfaces import Domain, TaskSource
from seal_lightning.domains.knowledge import (
    ChainOfThought,
    ExamWording,
    HubDataset,
    Implications,
    KnowledgeDomain,
    Passage,
    PassagesJsonl,
    Question,
    SelfQA,
    passage_id,
)


def texts(plan):
    assert all(len(s.segments) == 1 and s.segments[0].trained for s in plan.sequences)
    return [s.segments[0].text for s in plan.sequences]


def test_plan_is_the_pieces_and_the_passage_each_with_the_title(passage, edit):
    adapter, optimizer = AdapterSpec(rank=4), OptimizerSpec(num_epochs=2)
    plan = KnowledgeDomain(adapter=adapter, optimizer=optimizer).plan(passage, edit("Sure:\n1. a\n2. b"))
    title = "Mill of Tarnow\n"
    assert texts(plan) == [f"{title}1. a", f"{title}2. b", f"{title}{passage.context}"]
    assert (plan.adapter, plan.optimizer, plan.dropped_sequences) == (adapter, optimizer, 0)
    assert plan.num_steps == 6


def test_defaults_are_the_papers(passage, edit):
    plan = KnowledgeDomain().plan(passage, edit("a"))
    adapter, optimizer = plan.adapter, plan.optimizer
    assert (adapter.rank, adapter.alpha, adapter.dropout, adapter.target_modules) == (32, 64.0, 0.0, None)
    assert (optimizer.learning_rate, optimizer.num_epochs, optimizer.batch_size) == (1e-3, 10, 1)
    assert (optimizer.schedule, optimizer.warmup_steps, optimizer.max_grad_norm) == ("linear", 0, 1.0)


@pytest.mark.parametrize(
    ("num_lines", "kept", "dropped"), [(1, 1, 0), (29, 29, 0), (30, 30, 0), (31, 30, 1), (99, 30, 69)]
)
def test_cap_does_not_count_the_passage(passage, edit, num_lines, kept, dropped):
    plan = KnowledgeDomain().plan(passage, edit("\n".join(f"fact {i}" for i in range(num_lines))))
    assert len(plan.sequences) == kept + 1
    assert plan.dropped_sequences == dropped
    assert texts(plan)[kept - 1] == f"Mill of Tarnow\nfact {kept - 1}"
    assert texts(plan)[-1].endswith(passage.context)


def test_plan_without_passage_and_title(passage, edit):
    plan = KnowledgeDomain(append_passage=False, title_prefix=False).plan(passage, edit("a\nb"))
    assert texts(plan) == ["a", "b"]


def test_one_sequence(passage, edit):
    plan = KnowledgeDomain(format=Implications(one_sequence=True)).plan(passage, edit("1. a\n2. b"))
    assert texts(plan) == ["Mill of Tarnow\n1. a\n2. b", f"Mill of Tarnow\n{passage.context}"]


@pytest.mark.parametrize("append", [True, False])
def test_plan_without_edit(passage, append):
    domain = KnowledgeDomain(append_passage=append, adapter=AdapterSpec(rank=2))
    plan = domain.plan_without_edit(passage)
    assert texts(plan) == [f"Mill of Tarnow\n{passage.context}"]
    assert (plan.adapter, plan.optimizer) == (domain.adapter, domain.optimizer)


@pytest.mark.parametrize("text", ["", " \n\t", "---\n---", "\0", "\ud800\n"])
def test_empty_edit_is_malformed(passage, edit, text):
    with pytest.raises(MalformedEdit) as caught:
        KnowledgeDomain().plan(passage, edit(text))
    assert caught.value.kind == "empty"


def test_long_edit_is_malformed(passage, edit):
    domain = KnowledgeDomain(max_edit_chars=10)
    assert len(domain.plan(passage, edit("a" * 10)).sequences) == 2
    with pytest.raises(MalformedEdit, match="too long: 11 characters; allowed are 10"):
        domain.plan(passage, edit("a" * 11))


def test_missing_conclusion_is_malformed(passage, edit):
    with pytest.raises(MalformedEdit, match="no conclusion"):
        KnowledgeDomain(format=ChainOfThought()).plan(passage, edit("just thoughts"))


def test_unreadable_characters_never_reach_a_plan(passage, edit):
    plan = KnowledgeDomain().plan(passage, edit("a\0b\ud800\n\udfff\nc"))
    assert texts(plan)[:2] == ["Mill of Tarnow\nab", "Mill of Tarnow\nc"]


@pytest.mark.parametrize(
    ("way", "pieces"),
    [
        ("format", ["1. a", "b", "2. c"]),
        ("lines", ["1. a", "b", "2. c"]),
        ("blocks", ["Sure:\n1. a", "b\n2. c"]),
        ("whole", ["Sure:\n1. a\n---\nb\n2. c"]),
    ],
)
def test_an_edit_may_say_how_it_is_split(passage, edit, way, pieces):
    domain = KnowledgeDomain(title_prefix=False, append_passage=False)
    given = dataclasses.replace(edit("Sure:\r\n1. a\n---\nb\0\n2. c"), directives={"split": way})
    assert texts(domain.plan(passage, given)) == pieces
    for way_of_nothing in ("lines", "blocks", "whole"):
        with pytest.raises(MalformedEdit, match="empty"):
            domain.plan(passage, dataclasses.replace(edit(" \n"), directives={"split": way_of_nothing}))


@pytest.mark.parametrize("way", ["words", "", None, 3, ["lines"], {}])
def test_an_unknown_split_is_malformed(passage, edit, way):
    with pytest.raises(MalformedEdit, match=r"unknown split: .*; allowed are format, lines, blocks, whole"):
        KnowledgeDomain().plan(passage, dataclasses.replace(edit("a"), directives={"split": way}))


def test_exam_in_base_style(passage):
    first, second = KnowledgeDomain(max_answer_tokens=9).exam(passage)
    assert first.prompt == "Topic: Mill of Tarnow\nQuestion: What did the mill grind?\nAnswer:"
    assert (first.target, first.stop, first.max_new_tokens, first.view) == (" rye", ("\n",), 9, "identity")
    assert (second.question_id, second.target) == ("q-b", " 1788")


def test_exam_in_chat_style(passage):
    first, _ = KnowledgeDomain(style="chat").exam(passage)
    (turn,) = first.prompt
    assert isinstance(turn, ChatMessage)
    assert turn.role == "user"
    assert turn.content.startswith("Topic: Mill of Tarnow\nQuestion: What did the mill grind?\n\n")
    assert (first.target, first.stop, first.max_new_tokens) == ("rye", (), 64)


def test_exam_style_is_its_own_setting(passage):
    assert isinstance(KnowledgeDomain(style="chat", exam_style="base").exam(passage)[0].prompt, str)
    assert isinstance(KnowledgeDomain(style="base", exam_style="chat").edit_prompt(passage), str)


@pytest.mark.parametrize("style", ["base", "chat"])
def test_only_the_in_context_exam_shows_the_passage(passage, style):
    domain = KnowledgeDomain(style=style)
    for bare, shown in zip(domain.exam(passage), domain.in_context_exam(passage), strict=True):
        assert passage.context not in str(bare.prompt)
        assert passage.context in str(shown.prompt)
        assert dataclasses.replace(shown, prompt=bare.prompt) == bare
        if style == "base":
            assert shown.prompt == f"Passage:\n{passage.title}\n{passage.context}\n\n{bare.prompt}"


def test_exam_wording(passage):
    wording = ExamWording(topic="", question="Q:", answer="A:", passage="Text:")
    domain = KnowledgeDomain(exam_wording=wording)
    assert domain.exam(passage)[0].prompt == "Q: What did the mill grind?\nA:"
    assert domain.in_context_exam(passage)[0].prompt.startswith("Text:\nMill of Tarnow\n")


def test_answered(passage):
    answers = {("q-b", "identity"): "\t1788 \n", ("q-a", "identity"): " ", ("q-a", "rotated"): "x"}
    first, second = KnowledgeDomain().answered_questions(passage, answers)
    assert (first.question_id, first.question) == ("q-a", "What did the mill grind?")
    assert (first.answer, first.gold_answers) == ("", ("rye", "Rye"))
    assert second.answer == "1788"
    with pytest.raises(KeyError):
        KnowledgeDomain().answered_questions(passage, {})


def test_edit_prompt_and_stop(passage, examples_path):
    plain = KnowledgeDomain(format=SelfQA(stop=("END",)))
    assert plain.edit_prompt(passage) == SelfQA().base_prompt(passage)
    assert plain.edit_stop() == ("END",)
    shown = KnowledgeDomain(format=SelfQA(num_examples=2), examples_path=examples_path)
    assert "Grey Ferry" in shown.edit_prompt(passage)
    assert shown.edit_stop() == ("\n===",)
    chat = KnowledgeDomain(format=SelfQA(num_examples=1), style="chat", examples_path=examples_path)
    assert [turn.role for turn in chat.edit_prompt(passage)] == ["user", "assistant", "user"]
    assert chat.edit_stop() == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_sequences": 0}, "max_sequences is 0; allowed is 1 or more"),
        ({"max_answer_tokens": -1}, "max_answer_tokens is -1; allowed"),
        ({"max_edit_chars": 0}, "max_edit_chars is 0; allowed"),
        ({"style": "poem"}, "style is 'poem'; allowed are base, chat"),
        ({"exam_style": "oral"}, "exam_style is 'oral'; allowed are base, chat"),
    ],
)
def test_bounds(settings, message):
    with pytest.raises(ConfigError, match=message):
        KnowledgeDomain(**settings)


def test_more_worked_examples_than_there_are(examples_path):
    with pytest.raises(ConfigError, match="num_examples is 3; allowed is 0 to 2"):
        KnowledgeDomain(format=Implications(num_examples=3), examples_path=examples_path)


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        ("Mill of Tarnow", "mill-of-tarnow"),
        ("Frédéric Chopin", "frederic-chopin"),
        ("../../etc/passwd\0", "etc-passwd"),
        ("北京", "passage"),
        ("\ud800", "passage"),
        ("x" * 500, "x" * 60),
    ],
)
def test_task_ids_are_safe_file_names(title, slug):
    task_id = passage_id(title, "context")
    assert re.fullmatch(rf"{slug}-[0-9a-f]{{{16 if slug == 'passage' else 6}}}", task_id)
    assert task_id == Passage.named(title=title, context="context", questions=()).task_id
    assert task_id != passage_id(title, "another")
    assert task_id != passage_id(f"{title} ", "context")


def test_task_id_never_changes():
    # stored attempts and their seeds are found by it
    assert passage_id("Mill of Tarnow", "The mill.") == "mill-of-tarnow-3ce3b5"


def test_records_are_frozen(passage):
    for record, name in ((passage, "title"), (passage.questions[0], "answers"), (Implications(), "heading")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, name, "x")
    assert hash(passage) == hash(dataclasses.replace(passage))
    assert isinstance(passage.questions[0], Question)


def test_configured_by_class_path():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--domain", type=Domain)
    parser.add_argument("--lines", type=TaskSource)
    parser.add_argument("--hub", type=TaskSource)
    package = "seal_lightning.domains.knowledge"
    chosen = {"class_path": f"{package}.SelfQA", "init_args": {"num_examples": 0, "stop": ["END"]}}
    settings = {
        "format": chosen,
        "style": "chat",
        "adapter": {"rank": 16, "target_modules": ["q_proj", "v_proj"]},
        "optimizer": {"learning_rate": 2e-3},
        "exam_wording": {"topic": "Subject:"},
    }
    config = {
        "domain": {"class_path": f"{package}.KnowledgeDomain", "init_args": settings},
        "lines": {"class_path": f"{package}.PassagesJsonl", "init_args": {"path": "p.jsonl", "skip_invalid": True}},
        "hub": {"class_path": f"{package}.HubDataset", "init_args": {"name": "rajpurkar/squad", "split": "train"}},
    }
    made = parser.instantiate(parser.parse_object(config))
    assert isinstance(made.domain, KnowledgeDomain)
    assert made.domain.format == SelfQA(stop=("END",))
    assert made.domain.adapter == AdapterSpec(rank=16, target_modules=("q_proj", "v_proj"))
    assert made.domain.optimizer == OptimizerSpec(learning_rate=2e-3)
    assert made.domain.exam_wording == ExamWording(topic="Subject:")
    assert made.lines == PassagesJsonl("p.jsonl", skip_invalid=True)
    assert made.hub == HubDataset("rajpurkar/squad", "train")
