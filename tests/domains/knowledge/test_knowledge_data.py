"""The data that is installed with the package, and, where it is at hand, real data from the SEAL release."""

import json
from pathlib import Path
from statistics import mean

import pytest

from seal_lightning.domains.knowledge import (
    BundledPassages,
    ChainOfThought,
    Implications,
    KnowledgeDomain,
    PassagesJson,
    Rewrites,
    SelfQA,
    load_examples,
)
from seal_lightning.domains.knowledge.examples import BUNDLED_EXAMPLES
from seal_lightning.types import SelfEdit

SHARED = Path(__file__).resolve().parents[3].parent / "shared/data"
SPLITS = ("train", "validation", "test")

needs_bundle = pytest.mark.skipif(
    not all(BUNDLED_EXAMPLES.with_name(f"{name}.json").is_file() for name in (*SPLITS, "examples")),
    reason="the bundled passages are not written yet",
)
needs_release = pytest.mark.skipif(
    not (SHARED / "squad_seal_train.json").is_file(), reason=f"the SEAL release's passages are not in {SHARED}"
)


@needs_bundle
def test_bundled_splits_share_nothing():
    splits = {name: BundledPassages(name).load() for name in SPLITS}
    assert all(len(passages) >= 4 for passages in splits.values())
    titles = [p.title for passages in splits.values() for p in passages] + [e.title for e in load_examples()]
    assert len(set(titles)) == len(titles)
    ids = [q.question_id for passages in splits.values() for p in passages for q in p.questions]
    assert len(set(ids)) == len(ids)


@needs_bundle
@pytest.mark.parametrize("split", SPLITS)
def test_bundled_passages_answer_their_questions(split):
    for passage in BundledPassages(split).load():
        assert passage.context == passage.context.strip()
        for question in passage.questions:
            assert any(answer in passage.context for answer in question.answers), question


@needs_bundle
def test_bundled_limit():
    assert BundledPassages("train", limit=3).load() == BundledPassages("train").load()[:3]


@needs_bundle
@pytest.mark.parametrize("make", [Implications, Rewrites, SelfQA, ChainOfThought])
def test_bundled_examples_split_into_their_parts(make):
    chosen = make(num_examples=3)
    domain = KnowledgeDomain(format=chosen)
    assert len(domain.examples) == 3
    for example in domain.examples:
        parts = {Rewrites: example.rewrites, SelfQA: example.self_qa}.get(make, example.implications)
        edit = chosen.demonstration(example)
        assert len(chosen.split(edit)) == len(parts)
        assert not any(stop in edit for stop in domain.edit_stop())


@needs_release
def test_released_passages():
    passages = PassagesJson(SHARED / "squad_seal_train.json").load()
    assert len(passages) == 50
    assert 4 <= mean(len(p.questions) for p in passages) <= 6


@needs_release
def test_released_edits_make_as_many_sequences_as_they_did_there():
    path = SHARED / "squad_seal_train.json"
    domain = KnowledgeDomain()
    num_sequences = [
        len(domain.plan(passage, SelfEdit(task_id=passage.task_id, edit_index=index, text=text)).sequences)
        for passage, row in zip(PassagesJson(path).load(), json.loads(path.read_text(encoding="utf-8")), strict=True)
        for index, text in enumerate(row["completions"])
    ]
    assert len(num_sequences) == 250
    assert 8.4 < mean(num_sequences) < 8.8
    assert max(num_sequences) == 31
