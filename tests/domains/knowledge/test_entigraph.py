"""EntiGraph: what is asked, what is chosen, and that every text becomes one sequence."""

from collections.abc import Callable, Sequence
from itertools import combinations

import pytest
from fakes import ToyDomain, ToyTasks

from seal_lightning.core import Completion, FinishReason, GenerationRequest, SamplingSpec, ScoreRequest
from seal_lightning.core.errors import ConfigError, MalformedEdit
from seal_lightning.core.interfaces import Engine
from seal_lightning.core.seeds import derive_seed
from seal_lightning.domains.knowledge import EntiGraph, EntiGraphWording, KnowledgeDomain, Passage, SelfQA
from seal_lightning.models.language_model import LanguageModel

MILL = Passage.named(title="Mill of Tarnow", context="Rye was ground until the flood.", questions=())
FERRY = Passage.named(title="Grey Ferry", context="It crosses.", questions=())
WORDING = EntiGraphWording(entities_heading="LIST", relation_instruction="{entities}", relation_heading="ON {entities}")
NAMES = ["Rye", "flood", "Tarnow", "wheel"]


class Scribe(Engine):
    """Answers requests for a list with a given text, and others with a text on what was asked; remembers the calls."""

    def __init__(self, listed: str | Callable[[GenerationRequest], str], written: str = "{}!") -> None:
        self.listed = listed
        self.written = written
        self.calls: list[list[GenerationRequest]] = []

    def bind(self, language_model: LanguageModel) -> None: ...

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Completion]:
        self.calls.append(list(requests))
        texts = [self._text(request, len(self.calls) % 2 == 1) for request in requests]
        return [Completion(text=text, token_ids=(1,), finish_reason=FinishReason.STOP) for text in texts]

    def _text(self, request: GenerationRequest, is_list: bool) -> str:
        if is_list:
            return self.listed(request) if callable(self.listed) else self.listed
        prompt = request.prompt if isinstance(request.prompt, str) else request.prompt[-1].content
        return self.written.format(prompt.strip().split("\n")[-1])

    def score(self, requests: Sequence[ScoreRequest]) -> Sequence[Sequence[float]]:
        raise NotImplementedError


def write(listed, tasks=(MILL,), num_edits=1, domain=None, written="{}!", seed=0, **settings):
    engine = Scribe(listed, written)
    writer = EntiGraph(wording=settings.pop("wording", WORDING), **settings)
    writer.bind(domain or KnowledgeDomain(), engine)
    seeds = {(t.task_id, i): derive_seed(seed, t.task_id, i) for t in tasks for i in range(num_edits)}
    return writer.write(tasks, num_edits, seeds), engine


def pieces(edit, passage=MILL, domain=None):
    domain = domain or KnowledgeDomain(title_prefix=False, append_passage=False)
    return [sequence.segments[0].text for sequence in domain.plan(passage, edit).sequences]


def on(names, size):
    return [f"ON {', '.join(group[:-1])} and {group[-1]}!" for group in combinations(names, size)]


ALL_NAMES = '", "'.join(NAMES) + '"'


def test_a_text_on_every_pair_and_triple():
    (edit,), _ = write(ALL_NAMES)
    assert pieces(edit) == on(NAMES, 2)
    (edit,), _ = write(ALL_NAMES, relations="pairs_and_triples")
    assert pieces(edit) == on(NAMES, 2) + on(NAMES, 3)
    assert (edit.token_ids, edit.directives) == ((), {"split": "blocks", "max_sequences": 10})


@pytest.mark.parametrize("domain", [KnowledgeDomain(), KnowledgeDomain(format=SelfQA()), KnowledgeDomain(style="chat")])
@pytest.mark.parametrize(
    "written", ["{}!", "a\nb\n1. c\nQuestion 1: {}\n\nd", "---\n\n{}\n----\r\n - \nx\0\ud800\n---"]
)
def test_each_text_is_one_sequence_in_any_format(domain, written):
    wording = EntiGraphWording(relation_instruction="ON {entities}")
    listed = ALL_NAMES if domain.style == "base" else f'["{ALL_NAMES}]'
    (edit,), engine = write(listed, domain=domain, written=written, wording=wording)
    plan = domain.plan(MILL, edit)
    assert len(plan.sequences) == len(engine.calls[1]) + 1 == 6 + 1
    assert plan.dropped_sequences == 0


def test_a_base_model_is_asked_by_headings_and_stopped():
    engine = write(ALL_NAMES, sampling=SamplingSpec(max_new_tokens=7, stop=("END",)))[1]
    (listing,), on_pairs = engine.calls
    body = f"Passage:\n{MILL.title}\n{MILL.context}\n\n"
    assert listing.prompt == f'{WORDING.entities_instruction}\n\n{body}LIST\n["'
    assert on_pairs[0].prompt == f"Rye and flood\n\n{body}ON Rye and flood\n"
    assert (listing.sampling.stop, on_pairs[0].sampling.stop) == (("]",), ("END", "\n\n"))
    assert on_pairs[0].sampling.max_new_tokens == 7


def test_a_chat_model_is_asked_in_one_turn():
    wording = EntiGraphWording(relation_instruction="Tell of {entities}.")
    engine = write('["a", "b", "c"]', domain=KnowledgeDomain(style="chat"), wording=wording)[1]
    (listing,), on_pairs = engine.calls
    (turn,) = on_pairs[-1].prompt
    assert turn.role == "user"
    assert turn.content == f"Tell of b and c.\n\nPassage:\n{MILL.title}\n{MILL.context}"
    assert wording.entities_heading not in listing.prompt[0].content
    assert listing.sampling.stop == on_pairs[0].sampling.stop == ()


def test_all_edits_take_two_calls_and_have_their_own_seeds():
    edits, engine = write('a", "b", "c"', tasks=(MILL, FERRY), num_edits=2)
    assert [(e.task_id, e.edit_index) for e in edits] == [(t.task_id, i) for t in (MILL, FERRY) for i in range(2)]
    assert [len(call) for call in engine.calls] == [4, 12]
    seeds = [request.seed for call in engine.calls for request in call]
    assert len(set(seeds)) == len(seeds)
    assert [e.seed for e in edits] == [derive_seed(0, e.task_id, e.edit_index) for e in edits]


def test_max_relations_samples_by_the_seed():
    names = [f"n{i}" for i in range(8)]
    listed = '", "'.join(names) + '"'
    drawn = [pieces(write(listed, max_relations=5, seed=seed)[0][0]) for seed in range(6)]
    everything = on(names, 2)
    for some in drawn:
        assert len(some) == 5
        assert some == [one for one in everything if one in some], "in order, none twice"
    assert len(set(map(tuple, drawn))) > 3
    assert pieces(write(listed, max_relations=5, seed=3)[0][0]) == drawn[3]


def test_every_text_is_trained_beyond_the_cap():
    domain = KnowledgeDomain(max_sequences=4)
    (edit,), engine = write(ALL_NAMES, domain=domain)
    assert len(engine.calls[1]) == 6
    plan = domain.plan(MILL, edit)
    assert (len(plan.sequences), plan.dropped_sequences) == (6 + 1, 0)
    assert EntiGraph().num_edits == 1, "one edit has all the texts"


def test_the_first_entities_are_kept():
    (edit,), _ = write(ALL_NAMES, max_entities=3)
    assert pieces(edit) == on(NAMES[:3], 2)


@pytest.mark.parametrize("listed", ["", '"]', 'Rye", "rye"', "\0\ud800", "x" * 200])
def test_fewer_than_two_entities_make_an_empty_edit(listed):
    (bad, good), engine = write(lambda r: listed if "Rye" in r.prompt else ALL_NAMES, tasks=(MILL, FERRY))
    assert bad.text == ""
    with pytest.raises(MalformedEdit, match="empty"):
        KnowledgeDomain().plan(MILL, bad)
    assert len(pieces(good, FERRY)) == len(engine.calls[1]) == 6


def test_empty_texts_are_dropped():
    (edit,), _ = write(ALL_NAMES, written=" \n---\n")
    assert edit.text == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"relations": "quadruples"},
            "relations: 'quadruples' is not allowed; it must be one of pairs, pairs_and_triples",
        ),
        ({"max_entities": 1}, "max_entities: 1 is not allowed; it must be 2 to 50"),
        ({"max_entities": 51}, "max_entities: 51"),
        ({"max_relations": 0}, "max_relations: 0"),
        ({"max_entity_chars": 0}, "max_entity_chars: 0"),
    ],
)
def test_bounds(settings, message):
    with pytest.raises(ConfigError, match=message):
        EntiGraph(**settings)
    with pytest.raises(ConfigError, match="relation_instruction"):
        EntiGraphWording(relation_instruction="How are they connected?", relation_heading="")


def test_entigraph_needs_passages():
    with pytest.raises(ConfigError, match="needs a KnowledgeDomain, not ToyDomain"):
        EntiGraph().bind(ToyDomain(), Scribe(""))
    with pytest.raises(ConfigError, match="task 'stone-0' is a ToyTask"):
        write(ALL_NAMES, tasks=ToyTasks(1).load())
