"""The data that is installed with the package, and, where it is at hand, real data from the SEAL release."""

import json
from pathlib import Path
from statistics import mean

import pytest

from seal_lightning.core import SelfEdit
from seal_lightning.domains.knowledge import (
    BundledPassages,
    ChainOfThought,
    Implications,
    KnowledgeDomain,
    PassagesJson,
    Rewrites,
    SelfQA,
)

SHARED = Path(__file__).resolve().parents[3].parent / "shared/data"
SPLITS = ("train", "validation", "test")

needs_release = pytest.mark.skipif(
    not (SHARED / "squad_seal_train.json").is_file(), reason=f"the SEAL release's passages are not in {SHARED}"
)


@pytest.mark.parametrize("split", SPLITS)
def test_bundled_passages_load(split):
    passages = BundledPassages(split).load()
    assert len(passages) >= 4
    assert len({passage.task_id for passage in passages}) == len(passages)


def test_bundled_limit():
    assert BundledPassages("train", limit=3).load() == BundledPassages("train").load()[:3]


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
