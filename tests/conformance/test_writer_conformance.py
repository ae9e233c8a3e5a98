"""What every writer of self-edits does, whatever it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import weights_hash, write_tiny_model
from implementations import LIST_ASKED_FOR, WRITERS, MakeWriter, assert_all_registered

from seal_lightning.core import SelfEdit
from seal_lightning.core.errors import MalformedEdit
from seal_lightning.core.interfaces import Writer
from seal_lightning.core.seeds import derive_seed
from seal_lightning.domains.knowledge import BundledPassages, KnowledgeDomain, Passage
from seal_lightning.generation import TransformersEngine
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.pretrained import Pretrained

NUM_EDITS = 2
TASKS: Sequence[Passage] = [
    replace(task, context=task.context[:20]) for task in BundledPassages("test", limit=3).load()
]  # short, to fit the tiny model
SEEDS = {(task.task_id, index): derive_seed(0, task.task_id, index) for task in TASKS for index in range(NUM_EDITS)}
DOMAIN = KnowledgeDomain()

ANSWER = 'The stone", "Fox", "Lazy dog"]'
"""What the model learns to go on with where a list is asked for: left as it is, it would not write one by chance."""


@pytest.fixture(scope="module")
def taught_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_model(tmp_path_factory.mktemp("models") / "taught-llama")
    learner = Pretrained(source=str(folder), dtype="float32").load()
    texts = [f'Passage:\n{t.title}\n{t.context}\n\n{LIST_ASKED_FOR.entities_heading}\n["' for t in TASKS]
    pairs = [(learner.encode_prompt(text), learner.encode_text(ANSWER)) for text in texts]
    learner.model.requires_grad_(True)
    optimizer = torch.optim.Adam(learner.model.parameters(), lr=5e-3)
    for _ in range(40):
        for prompt, answer in pairs:
            logits = learner.model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            torch.nn.functional.cross_entropy(logits, torch.tensor(answer)).backward()
        optimizer.step()
        optimizer.zero_grad()
    learner.model.save_pretrained(folder)
    return folder


@pytest.fixture
def taught(taught_folder: Path) -> LanguageModel:
    """In float64: comparisons must not depend on the order of sums."""
    return Pretrained(source=str(taught_folder), dtype="float64").load()


each_writer = pytest.mark.parametrize("make", WRITERS.values(), ids=WRITERS)


def bound(make: MakeWriter, language_model: LanguageModel, folder: Path) -> Writer:
    engine = TransformersEngine()
    engine.bind(language_model)
    writer = make(DOMAIN, engine, TASKS, folder)
    writer.bind(DOMAIN, engine)
    return writer


def by_place(edits: Sequence[SelfEdit]) -> dict[tuple[str, int], SelfEdit]:
    return {(edit.task_id, edit.edit_index): edit for edit in edits}


def test_every_writer_is_registered(taught: LanguageModel, tmp_path: Path) -> None:
    assert_all_registered(Writer, [bound(make, taught, tmp_path) for make in WRITERS.values()])


@each_writer
def test_writer_orders_edits(make: MakeWriter, taught: LanguageModel, tmp_path: Path) -> None:
    writer = bound(make, taught, tmp_path)
    assert list(writer.write([], NUM_EDITS, {})) == []
    for num_edits in (1, NUM_EDITS):
        edits = writer.write(TASKS, num_edits, SEEDS)
        assert [(e.task_id, e.edit_index) for e in edits] == [(t.task_id, i) for t in TASKS for i in range(num_edits)]
        assert all(isinstance(edit, SelfEdit) for edit in edits)
        assert any(edit.text for edit in edits)


@each_writer
def test_writer_results_do_not_depend_on_order(make: MakeWriter, taught: LanguageModel, tmp_path: Path) -> None:
    """All at once, backwards, one by one and by another writer made alike give the same; fewer are the first of more."""
    writer = bound(make, taught, tmp_path)
    together = by_place(writer.write(TASKS, NUM_EDITS, SEEDS))
    assert all(edit.text for edit in together.values())
    assert by_place(writer.write(TASKS[::-1], NUM_EDITS, SEEDS)) == together
    alike = bound(make, taught, tmp_path)
    assert by_place([e for task in TASKS for e in alike.write([task], NUM_EDITS, SEEDS)]) == together
    first = by_place(writer.write(TASKS, 1, SEEDS))
    assert first == {place: edit for place, edit in together.items() if place[1] == 0}


@each_writer
def test_writer_edits_are_plans_or_malformed(make: MakeWriter, taught: LanguageModel, tmp_path: Path) -> None:
    planned = 0
    for task in TASKS:
        for edit in bound(make, taught, tmp_path).write([task], NUM_EDITS, SEEDS):
            edit.text.encode()  # a lone surrogate would raise here, and in a journal
            try:
                planned += len(DOMAIN.plan(task, edit).sequences) > 1
            except MalformedEdit:
                assert not edit.text.strip()
    assert planned


@each_writer
def test_writer_leaves_model_and_generator_unchanged(make: MakeWriter, taught: LanguageModel, tmp_path: Path) -> None:
    before, state = weights_hash(taught.model), torch.get_rng_state()
    bound(make, taught, tmp_path).write(TASKS, NUM_EDITS, SEEDS)
    assert weights_hash(taught.model) == before
    assert torch.equal(torch.get_rng_state(), state)
