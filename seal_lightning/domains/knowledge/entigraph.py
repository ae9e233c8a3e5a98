"""EntiGraph (Yang et al., arXiv 2409.07431) as a writer of self-edits: a passage's entities, and texts on their relations.

The wording is ours. Texts are on pairs and triples only: no summary of the passage is among the sequences.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from random import Random
from typing import Literal

from seal_lightning.core import ChatMessage, GenerationRequest, Prompt, SamplingSpec, SelfEdit, Task
from seal_lightning.core.errors import ConfigError, require, shown
from seal_lightning.core.interfaces import AnyDomain, Engine, Writer
from seal_lightning.core.seeds import derive_seed
from seal_lightning.domains.knowledge.domain import KnowledgeDomain
from seal_lightning.domains.knowledge.passage import Passage
from seal_lightning.domains.knowledge.splitting import (
    as_one_block,
    readable,
    without_chatty_opening,
    without_list_marker,
)

_MOST_CHARS = 20_000
"""More of an answer is not read: a model that does not stop has no more entities, only more text."""
_MOST_BRACKETS = 50
_MOST_NAMES = 1000
_QUOTED = re.compile(r'"((?:[^"\\\n]|\\.){1,500})"')
_KEYS = ("name", "entity", "title")
_AROUND = " \t\"'`*_.,;:|#()[]{}“”‘’"
_DESCRIPTION = re.compile(r":\s|\s[-–—]\s|\s\(")


def read_entities(text: str, max_entities: int, max_chars: int) -> list[str]:
    """Return the different names in an answer, in order.

    Tried in turn: the whole answer as JSON; the first array in it that is JSON and has a name; the quoted texts after a
    bracket that is no array (cut off, or with a mistake); the items of a list, one a line; a line with commas.

    Args:
        text: a model's answer, possibly anything.
        max_entities: further names are dropped.
        max_chars: longer names are dropped.
    """
    text = readable(text)[:_MOST_CHARS].strip()
    names: dict[str, str] = {}
    for candidates in (_of_json(text), _of_arrays(text), _of_quotes(text), _of_lines(text)):
        for candidate in candidates:
            name = " ".join(candidate.split()).strip(_AROUND)
            if 0 < len(name) <= max_chars and any(map(str.isalnum, name)) and name.isprintable():
                names.setdefault(name.casefold(), name)
        if names:
            break
    return list(names.values())[:max_entities]


def _of_json(text: str) -> list[str]:
    try:
        return list(_names(json.loads(text)))
    except (ValueError, RecursionError):
        return []


def _of_arrays(text: str) -> list[str]:
    decoder = json.JSONDecoder()
    start = -1
    for _ in range(_MOST_BRACKETS):
        if (start := text.find("[", start + 1)) < 0:
            break
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if found := list(_names(value)):
            return found
    return []


def _of_quotes(text: str) -> list[str]:
    _, bracket, rest = text.partition("[")
    return [re.sub(r"\\(.)", r"\1", quoted) for quoted in _QUOTED.findall(rest.split("]")[0])] if bracket else []


def _of_lines(text: str) -> list[str]:
    lines = [line.strip() for line in without_chatty_opening(text).split("\n")]
    items = [line for line in lines if line and not line.endswith(":") and not line.startswith("```")]
    listed = [line for line in items if without_list_marker(line) != line]
    names = [_DESCRIPTION.split(without_list_marker(line), maxsplit=1)[0] for line in listed or items]
    if len(names) == 1:
        return re.split(r"[,;]\s", without_list_marker((listed or items)[0]).rpartition(": ")[2])
    return names


def _names(value: object) -> Iterator[str]:
    """Yield the texts of a list, of an object's lists, and the names of objects in a list."""
    if isinstance(value, dict):
        for item in _first(value.values()):
            yield from _names(item) if isinstance(item, list) else ()
    elif isinstance(value, list):
        for item in _first(value):
            if isinstance(item, dict):
                item = next((item[key] for key in _KEYS if key in item), None)
            if isinstance(item, str):
                yield item


def _first(items: Iterable[object]) -> Iterator[object]:
    yield from (item for item, _ in zip(items, range(_MOST_NAMES), strict=False))


Relations = Literal["pairs", "pairs_and_triples"]
_SIZES: dict[str, tuple[int, ...]] = {"pairs": (2,), "pairs_and_triples": (2, 3)}
_MOST_ENTITIES = 50
_PLACE = "{entities}"
_LIST_START = '["'
"""Ends a base prompt for entities, so that a base model continues with a list."""


@dataclass(frozen=True, kw_only=True)
class EntiGraphWording:
    """The prompts' texts. ``{entities}`` stands for the names that a text is to connect: "A and B", "A, B and C".

    Example:
        >>> EntiGraphWording(relation_heading="{entities}:").relation_heading
        '{entities}:'

    """

    entities_instruction: str = (
        "Study the passage below and find what it is about: the people, places, groups, things, events and ideas that "
        "matter in it. Give their names as a JSON list of texts, each name once, and write nothing else."
    )
    entities_heading: str = "Names as a JSON list:"
    """Ends a base prompt; chat prompts lack it."""
    relation_instruction: str = (
        "Study the passage below. Then explain in a few sentences how {entities} are connected: what the passage says of "
        "each, what one has to do with the other, and what follows from it. The explanation must make sense to someone "
        "who has not seen the passage."
    )
    relation_heading: str = "How {entities} are connected:"
    """Ends a base prompt; a chat prompt has none."""
    passage_heading: str = "Passage:"

    def __post_init__(self) -> None:
        """Check the settings. Raises :class:`ConfigError`."""
        wording = self.relation_instruction
        require(_PLACE in wording, "relation_instruction", wording, f"a text with {_PLACE} where the names are to be")


_WORDING = EntiGraphWording()
_SAMPLING = SamplingSpec(max_new_tokens=512)
_ENTITY_SAMPLING = SamplingSpec(temperature=0.3, max_new_tokens=256)


class EntiGraph(Writer):
    """Generates a passage's entities, then a text on every pair (or pair and triple) of them.

    An edit is these texts with lines of dashes between, each one sequence whatever the run's format is. An edit with fewer
    than two entities is empty, hence malformed and counted. All edits of a call take two calls of the engine.

    Args:
        relations: ``pairs`` or ``pairs_and_triples``.
        max_entities: 2 to 50, those named first; all pairs of n are n(n−1)/2 texts, all triples n(n−1)(n−2)/6.
        max_relations: ≥ 1, texts per edit, sampled uniformly by its seed from all pairs and triples. None takes all,
            whatever the domain's ``max_sequences``.
        num_edits: ≥ 1, edits per task; each has all the texts.
        max_entity_chars: ≥ 1; a longer name is dropped.
        sampling: Samples the texts.
        entity_sampling: Samples the list of entities.
        base_stop: Stop strings of a base model's texts, which would not end.
        wording: The prompts' texts.

    Raises:
        ConfigError: A setting is out of bounds.

    Example:
        >>> EntiGraph(relations="pairs_and_triples", max_entities=4).sizes
        (2, 3)

    """

    def __init__(
        self,
        relations: Relations = "pairs",
        max_entities: int = 8,
        max_relations: int | None = None,
        num_edits: int = 1,
        max_entity_chars: int = 80,
        sampling: SamplingSpec = _SAMPLING,
        entity_sampling: SamplingSpec = _ENTITY_SAMPLING,
        base_stop: tuple[str, ...] = ("\n\n",),
        wording: EntiGraphWording = _WORDING,
    ) -> None:
        require(relations in _SIZES, "EntiGraph: relations", relations, f"one of {', '.join(_SIZES)}")
        allowed = f"2 to {_MOST_ENTITIES}"
        require(2 <= max_entities <= _MOST_ENTITIES, "EntiGraph: max_entities", max_entities, allowed)
        fits = max_relations is None or max_relations >= 1
        require(fits, "EntiGraph: max_relations", max_relations, "at least 1, or null for all")
        require(max_entity_chars >= 1, "EntiGraph: max_entity_chars", max_entity_chars, "at least 1")
        require(num_edits >= 1, "EntiGraph: num_edits", num_edits, "at least 1")
        self.num_edits = num_edits
        self.sizes = _SIZES[relations]
        self.max_entities = max_entities
        self.max_relations = max_relations
        self.max_entity_chars = max_entity_chars
        self.sampling = sampling
        self.entity_sampling = entity_sampling
        self.base_stop = base_stop
        self.wording = wording

    def bind(self, domain: AnyDomain, engine: Engine, sampling: SamplingSpec | None = None) -> None:
        """Take the domain's prompt style.

        Raises :class:`ConfigError` for a domain that has no passages.
        """
        if not isinstance(domain, KnowledgeDomain):
            raise ConfigError(
                f"EntiGraph writes about passages: it needs a KnowledgeDomain, not {type(domain).__name__}"
            )
        self.domain = domain
        self.engine = engine

    def write(self, tasks: Sequence[Task], num_edits: int, seeds: Mapping[tuple[str, int], int]) -> Sequence[SelfEdit]:
        """Return ``num_edits`` edits per task, task by task; ``seeds`` are by (task id, edit index)."""
        slots = [(_passage(task), index) for task in tasks for index in range(num_edits)]
        slot_seeds = [seeds[task.task_id, index] for task, index in slots]
        entities = self._entities([task for task, _ in slots], slot_seeds)
        chosen = [self._chosen(names, seed) for names, seed in zip(entities, slot_seeds, strict=True)]
        requests = [
            GenerationRequest(
                prompt=self._relation_prompt(task, names),
                sampling=self._sampling(self.sampling, self.base_stop),
                seed=derive_seed(seed, "relation", *names),
            )
            for (task, _), relations, seed in zip(slots, chosen, slot_seeds, strict=True)
            for names in relations
        ]
        texts = iter([as_one_block(readable(completion.text)) for completion in self.engine.generate(requests)])
        return [
            SelfEdit(
                task_id=task.task_id,
                edit_index=index,
                text="\n---\n".join(text for text in [next(texts) for _ in relations] if text),
                seed=seed,
                directives={"split": "blocks", "max_sequences": max(len(relations), 1)},
            )
            for (task, index), relations, seed in zip(slots, chosen, slot_seeds, strict=True)
        ]

    def _entities(self, passages: Sequence[Passage], seeds: Sequence[int]) -> list[list[str]]:
        requests = [
            GenerationRequest(
                prompt=self._entities_prompt(passage),
                sampling=self._sampling(self.entity_sampling, ("]",)),
                seed=derive_seed(seed, "entities"),
            )
            for passage, seed in zip(passages, seeds, strict=True)
        ]
        texts = [completion.text for completion in self.engine.generate(requests)]
        if self._is_base:  # the list's start is in the prompt, and its end is where the model was stopped
            texts = [f"{_LIST_START}{text}]" for text in texts]
        return [read_entities(text, self.max_entities, self.max_entity_chars) for text in texts]

    def _chosen(self, names: Sequence[str], seed: int) -> list[tuple[str, ...]]:
        """Return the pairs, then the triples to write about, in the order of the entities."""
        relations = [relation for size in self.sizes for relation in combinations(names, size)]
        if self.max_relations is None or len(relations) <= self.max_relations:
            return relations
        draw = Random(derive_seed(seed, "relations"))  # noqa: S311 - a sample, no secret
        return [relations[i] for i in sorted(draw.sample(range(len(relations)), self.max_relations))]

    @property
    def _is_base(self) -> bool:
        return self.domain.style == "base"

    def _sampling(self, sampling: SamplingSpec, base_stop: tuple[str, ...]) -> SamplingSpec:
        return replace(sampling, stop=(*sampling.stop, *base_stop)) if self._is_base else sampling

    def _entities_prompt(self, passage: Passage) -> Prompt:
        wording = self.wording
        prompt = self._prompt(passage, wording.entities_instruction, wording.entities_heading)
        return f"{prompt}{_LIST_START}" if isinstance(prompt, str) else prompt

    def _relation_prompt(self, passage: Passage, names: Sequence[str]) -> Prompt:
        listed = f"{', '.join(names[:-1])} and {names[-1]}"
        wording = self.wording
        instruction, heading = (
            text.replace(_PLACE, listed) for text in (wording.relation_instruction, wording.relation_heading)
        )
        return self._prompt(passage, instruction, heading)

    def _prompt(self, passage: Passage, instruction: str, heading: str) -> Prompt:
        body = f"{self.wording.passage_heading}\n{passage.title}\n{passage.context}".lstrip()
        if self._is_base:
            return f"{instruction}\n\n{body}\n\n{heading}".rstrip() + "\n"
        return (ChatMessage(role="user", content=f"{instruction}\n\n{body}"),)


def _passage(task: Task) -> Passage:
    if not isinstance(task, Passage):
        raise ConfigError(f"EntiGraph writes about passages; task {shown(task.task_id)} is a {type(task).__name__}")
    return task
