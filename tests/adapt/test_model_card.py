"""The model card: valid front matter, the scores, and no path of this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from adapted_folders import adapted_record
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_lightning.adapt.model_card import hub_name, last_part, model_card
from seal_lightning.adapt.record import AdaptedRecord, BaseModel, DocumentRecord, MergedFrom, SkippedRecord

RECORD = adapted_record("embedded", "handbook")


def rows(card: str) -> list[str]:
    return [line for line in card.splitlines() if line.startswith("|")]


def test_model_card_has_scores_and_front_matter() -> None:
    card = model_card(RECORD, "handbook")
    data = ModelCard(card, ignore_metadata_errors=False).data
    assert data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (data.library_name, data.pipeline_tag) == ("peft", "text-generation")
    assert {"lora", "base_model:adapter:HuggingFaceTB/SmolLM2-135M-Instruct"} <= set(data.tags)
    assert f"| handbook.txt | text | 4 | {'h' * 64} |" in card
    assert "| probe | 8 | this package | adapted | -1.500 ± 0.200 | +1.500 ± 0.300 | – | 0.750 ± 0.125 |" in card
    assert "the right answers changed by +1.500 ± 0.300 nats, accuracy went from 0.250 ± 0.100 to 0.750 ± 0.125" in card
    assert "of 20 self-edits that were tried, 12 were kept" in card
    assert "Questions by the model" in card
    assert "learning_rate: 0.001" in card
    assert "propose 10.0 s" in card
    assert "/home/me" not in card
    assert "\n\n\n" not in card


def test_model_card_warns_of_the_models_own_questions() -> None:
    mine = replace(RECORD, exams=tuple(replace(exam, by="the user") for exam in RECORD.exams))
    assert "Questions by the model" not in model_card(mine, "x")


def test_model_card_explains_before() -> None:
    name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "*Before* is" not in model_card(RECORD, "x")
    card = model_card(replace(RECORD, earlier=("a|b", "c")), "x")
    assert f"\n\n*Before* is {name} with what it had learned already: a\\|b, c. Gains" in card
    assert card.index("| probe |") < card.index("*Before* is") < card.index("What was forgotten")
    assert "*Before* is" not in model_card(replace(RECORD, earlier=("a",), exams=()), "x")
    start = {"run": "/home/me/runs/squad", "rounds": 2}
    card = model_card(replace(RECORD, settings={"start": start}), "x")
    assert "it had learned already: the policy of the run squad. Gains" in card
    assert "/home/me" not in card
    for untrained in ({**start, "rounds": 0}, {}, {"run": 5, "rounds": 1}, "a run"):
        assert "*Before* is" not in model_card(replace(RECORD, settings={"start": untrained}), "x")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("embedded", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B"),
        ("gpt2", "gpt2"),
        ("/home/me/models/mine", "mine"),
        ("../models/mine", "mine"),
        ("C:\\models\\mine", "mine"),
    ],
)
def test_hub_name_of_a_folder_is_its_last_part(source: str, name: str) -> None:
    assert hub_name(BaseModel(source=source)) == name


def test_hub_name_of_an_existing_folder_is_not_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Qwen" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    card = model_card(adapted_record("Qwen/mine"), "x")
    assert hub_name(BaseModel(source="Qwen/mine")) == "mine"
    assert "base_model" not in yaml.safe_load(card.split("---")[1])


def test_model_card_shows_no_local_paths() -> None:
    record = replace(
        RECORD,
        settings={
            "model": {"pretrained": {"source": "/home/me/secret/base"}, "judge": {"url": "http://10.0.0.7:8000/v1"}},
            "paths": ["docs/private/a.md", "~/b.md"],
            "source": "Qwen/Qwen2.5-7B",
            "fence": "```\n# not a heading",
        },
    )
    card = model_card(record, "x")
    settings = yaml.safe_load(card.split("```yaml\n")[1].split("\n```\n")[0])
    assert settings["model"] == {"pretrained": {"source": "base"}, "judge": {"url": "(an address)"}}
    assert settings["paths"] == ["a.md", "b.md"]
    assert settings["source"] == "Qwen/Qwen2.5-7B"
    assert all(word not in card for word in ("/home", "secret", "private", "10.0.0.7"))


def shown_settings(values: dict[str, object]) -> dict[str, object]:
    card = model_card(replace(RECORD, settings=values), "x")  # type: ignore[arg-type]
    return dict(yaml.safe_load(card.split("```yaml\n")[1].split("\n```\n")[0]))


def test_model_card_keeps_texts_with_separators() -> None:
    texts: dict[str, object] = {
        "chat_instruction": "Answer with yes/no, please.",
        "question": "Frage::",
        "heading": "Facts and/or figures:\\",
        "topic": "~5 words, yes/no",
        "stop": ["</s>", "/", "//", "..."],
        "class_path": "seal_lightning.domains.knowledge.KnowledgeDomain",
        "instruction": "/no_think\nList what follows, and/or what is implied.",
        "name": "Qwen/Qwen2.5-7B",
    }
    assert shown_settings(texts) == texts


def test_model_card_finds_paths_by_name_or_beginning() -> None:
    places: dict[str, object] = {
        "examples_path": "private/more/a.jsonl",
        "cache_dir": "private/judged",
        "adapter_dir_at_server": "private/a",
        "base_url": "gpu.private::8000/v1",
        "paths": ["private/b.md"],
        "anything": ["/private/c", "~/private/c", "~me/private/c", "./private/c", "../private/c", "X:\\private\\c"],
        "otherwise": ["/private/d/", "\\\\host\\private\\d", "..\\private\\d"],
        "else": ["file:///private/my notes.md", "see http://private.example/v1 or nothing"],
    }
    found = shown_settings(places)
    assert found == {
        "examples_path": "a.jsonl",
        "cache_dir": "judged",
        "adapter_dir_at_server": "a",
        "base_url": "(an address)",
        "paths": ["b.md"],
        "anything": ["c"] * 6,
        "otherwise": ["d"] * 3,
        "else": ["(an address)", "see (an address) or nothing"],
    }


def test_model_card_escapes_names() -> None:
    wild = "a|b\n# heading\n<script>alert(1)<script> [x](y) `c` \u202e\ud800 {{ 7*7 }}"
    card = model_card(
        replace(RECORD, documents=(DocumentRecord(path=f"/x/{wild}.txt", sha256="0", kind="text", num_passages=1),)),
        wild,
    )
    card.encode()
    assert "<script>" not in card.replace("\\<", "")
    assert not any(line.startswith("# heading") for line in card.splitlines())
    assert "49" not in card
    assert all(row.replace("\\|", "").count("|") in (5, 9) for row in rows(card))


def test_model_card_describes_a_sum() -> None:
    merged = MergedFrom(weights={"a": 1.0, "/x/b": -0.5}, rank=4, sum_of_ranks=8)
    card = model_card(replace(RECORD, exams=(), earlier=("a", "b"), merged=merged), "sum")
    assert "the weighted sum of 2 adapters" in card
    assert "- b, weight -0.5" in card
    assert "Rank 4, before truncation 8." in card
    assert "this model was not examined" in card
    assert "/x/" not in card


TEXT = st.text(st.sampled_from("|\\`<#\n ax") | st.characters(), max_size=40)


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT, st.dictionaries(TEXT, st.recursive(st.none() | st.floats() | TEXT, st.lists), max_size=4))
def test_model_card_accepts_any_record(path: str, name: str, values: dict[str, object]) -> None:
    record = replace(
        RECORD,
        documents=(DocumentRecord(path=path, sha256=path, kind=path, num_passages=1),),
        skipped=(SkippedRecord(path=path, reason=path),),
        earlier=(path,),
        settings=values,
        versions={name: path},
    )
    card = model_card(record, name)
    card.encode()
    assert isinstance(record, AdaptedRecord)
    assert all(
        row.replace("\\\\", "").replace("\\|", "").count("|") in (5, 9) for row in rows(card.split("## Settings")[0])
    )
    assert yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))["library_name"] == "peft"


def test_last_part_knows_all_systems() -> None:
    assert [last_part(p) for p in ("/a/b.txt", "a\\b.txt", "b.txt", "/", "")] == ["b.txt", "b.txt", "b.txt", "…", "…"]
