"""The bundled passages: SQuAD v1.1 shape, exact answer offsets, and splits that share nothing."""

import json
from importlib import resources
from typing import Any

import pytest

PACKAGE = "seal_lightning.domains.knowledge.passages"
COUNTS = {"train": 32, "validation": 12, "test": 20}
SPLITS = list(COUNTS)


def load(name: str) -> Any:
    return json.loads(resources.files(PACKAGE).joinpath(f"{name}.json").read_text(encoding="utf-8"))


def articles(split: str) -> list[dict[str, Any]]:
    return load(split)["data"]


def paragraph(article: dict[str, Any]) -> dict[str, Any]:
    (only,) = article["paragraphs"]
    return only


@pytest.mark.parametrize("split", SPLITS)
def test_split_has_squad_shape_and_its_count(split: str) -> None:
    document = load(split)
    assert document["version"] == "1.1"
    assert len(document["data"]) == COUNTS[split]
    for article in document["data"]:
        assert set(article) == {"title", "paragraphs"}
        assert 2 <= len(article["title"].split()) <= 4
        assert set(paragraph(article)) == {"context", "qas"}


@pytest.mark.parametrize("split", SPLITS)
def test_contexts_are_60_to_110_words_with_five_questions(split: str) -> None:
    for article in articles(split):
        assert 60 <= len(paragraph(article)["context"].split()) <= 110, article["title"]
        assert len(paragraph(article)["qas"]) == 5, article["title"]


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_in_the_context_only(split: str) -> None:
    for article in articles(split):
        context = paragraph(article)["context"]
        for qa in paragraph(article)["qas"]:
            (answer,) = qa["answers"]
            text, start = answer["text"], answer["answer_start"]
            assert text, qa["id"]
            assert text == text.strip(), qa["id"]
            assert context[start : start + len(text)] == text, qa["id"]
            assert qa["question"].endswith("?"), qa["id"]
            assert text.casefold() not in qa["question"].casefold(), qa["id"]
            assert text.casefold() not in article["title"].casefold(), qa["id"]


@pytest.mark.parametrize("split", SPLITS)
def test_the_answers_of_one_passage_differ(split: str) -> None:
    for article in articles(split):
        answers = {qa["answers"][0]["text"].casefold() for qa in paragraph(article)["qas"]}
        assert len(answers) == 5, article["title"]


def test_titles_and_ids_are_unique_over_splits_and_examples() -> None:
    everything = [article for split in SPLITS for article in articles(split)]
    titles = [article["title"].casefold() for article in everything] + [e["title"].casefold() for e in load("examples")]
    ids = [qa["id"] for article in everything for qa in paragraph(article)["qas"]]
    assert len(titles) == len(set(titles)) == sum(COUNTS.values()) + 3
    assert len(ids) == len(set(ids)) == 5 * sum(COUNTS.values())


def test_splits_and_examples_do_not_overlap() -> None:
    contexts = {a["title"]: paragraph(a)["context"] for split in SPLITS for a in articles(split)}
    contexts |= {example["title"]: example["context"] for example in load("examples")}
    seen: dict[tuple[str, ...], str] = {}
    for title, context in contexts.items():
        words = context.casefold().split()
        for run in zip(*(words[i:] for i in range(5)), strict=False):
            assert seen.setdefault(run, title) == title, f"{title} and {seen[run]} share {' '.join(run)!r}"
    questions = [qa["question"] for split in SPLITS for a in articles(split) for qa in paragraph(a)["qas"]]
    assert len(questions) == len(set(questions))


def test_examples_hold_every_demonstrated_format() -> None:
    examples = load("examples")
    assert len(examples) == 3
    for example in examples:
        assert set(example) == {"title", "context", "implications", "rewrites", "self_qa", "reasoning"}
        assert 50 <= len(example["context"].split()) <= 80, example["title"]
        assert 5 <= len(example["implications"]) <= 6, example["title"]
        assert all(example["title"].casefold() in line.casefold() for line in example["implications"]), example["title"]
        assert 2 <= len(example["rewrites"]) <= 3, example["title"]
        assert all(40 <= len(rewrite.split()) <= 62 for rewrite in example["rewrites"]), example["title"]
        assert len(example["self_qa"]) == 5, example["title"]
        assert example["reasoning"].strip(), example["title"]
        for qa in example["self_qa"]:
            assert set(qa) == {"question", "answer"}
            assert qa["answer"] in example["context"], qa
            assert qa["answer"].casefold() not in qa["question"].casefold(), qa
