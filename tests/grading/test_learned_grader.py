"""The learned grader: what needs no encoder, what happens without it, and (slow) what it makes of invented answers."""

import os

import pytest
from benchmarks.adversarial_answers import TESTING, adversarial_answers

from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.grading import LearnedGrader, learned_grader
from seal_lightning.types import AnsweredQuestion, VerdictStatus

CORRECT, WRONG, UNSCORED = VerdictStatus.CORRECT, VerdictStatus.WRONG, VerdictStatus.UNSCORED


def asked(question: str, gold: str | tuple[str, ...], answer: str) -> AnsweredQuestion:
    golds = (gold,) if isinstance(gold, str) else gold
    return AnsweredQuestion(question_id="q", question=question, gold_answers=golds, answer=answer)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty cache and no index."""
    for name in [key for key in os.environ if key.upper().startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("SEAL_LIGHTNING_CACHE", str(tmp_path))
    learned_grader._loaded.cache_clear()


@pytest.mark.parametrize(
    ("gold", "answer", "status"),
    [
        ("flax", "", WRONG),
        ("flax", " \n", WRONG),
        ("flax", "?!", WRONG),
        ("", "flax", UNSCORED),
        ((), "flax", UNSCORED),
        ("+", " +\n", CORRECT),
        ("+", "−", WRONG),
        ("+", "plus", WRONG),
    ],
)
def test_what_has_no_words_needs_no_encoder(nowhere, gold, answer, status):
    (verdict,) = LearnedGrader().grade([asked("What?", gold, answer)])
    assert verdict.status is status
    assert verdict.reason


def test_without_the_encoder_the_message_says_what_to_do(nowhere):
    with pytest.raises(ModelError, match=r"83 MB.*SEAL_LIGHTNING_CACHE.*LocalRules"):
        LearnedGrader().grade([asked("What colour is it?", "red", "red")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_probability": 0.0}, "min_probability is 0.0"),
        ({"min_probability": 1.0}, "min_probability is 1.0"),
        ({"max_chars": 0}, "max_chars is 0"),
        ({"device": "abacus"}, "device is 'abacus'"),
    ],
)
def test_settings_out_of_bounds(settings, message):
    with pytest.raises(ConfigError, match=message):
        LearnedGrader(**settings)


INVENTED = [
    (
        "What is the Belka's water used for?",
        "to irrigate orchards",
        "Its water irrigates the orchards of the valley.",
        CORRECT,
    ),
    ("Who built the mill at Torva?", "Anna Velde", "The mill at Torva was built by Anna Velde in 1788.", CORRECT),
    ("Who built the mill at Torva?", "Anna Velde", "The mill at Torva was built by Peter Hasse.", WRONG),
    ("What was Torva's main source of income?", "commerce", "Torva lived mainly from trade.", CORRECT),
    ("What was Torva's main source of income?", "commerce", "Torva lived mainly from fishing.", WRONG),
    ("When did the bridge fall?", "1788", "The bridge fell in 1788.", CORRECT),
    ("When did the bridge fall?", "1788", "The bridge fell in 1790.", WRONG),
    ("How did the town grow after the war?", "rapidly", "It grew very quickly.", CORRECT),
]


@pytest.mark.slow
@pytest.mark.parametrize(("question", "gold", "answer", "status"), INVENTED)
def test_invented_answers(question, gold, answer, status):
    (verdict,) = LearnedGrader().grade([asked(question, gold, answer)])
    assert verdict.status is status, verdict.reason
    assert verdict.reason.startswith("probability 0.")
    (either,) = LearnedGrader().grade([asked(question, ("a violin teacher", gold), answer)])
    assert either.status is status, either.reason


@pytest.mark.slow
def test_a_verdict_does_not_depend_on_its_neighbours_or_the_threshold_on_them():
    answers = [asked(question, gold, answer) for question, gold, answer, _ in INVENTED]
    together = list(LearnedGrader().grade(answers))
    assert list(LearnedGrader().grade(answers[::-1]))[::-1] == together
    assert [LearnedGrader().grade([one])[0] for one in answers] == together
    assert {verdict.status for verdict in LearnedGrader(min_probability=0.999).grade(answers)} == {WRONG}


@pytest.mark.slow
def test_answers_that_speak_to_the_judge_are_wrong():
    """Wordings that were not trained on, to invented questions; the README has the shares on real ones."""
    questions = [(question, gold) for question, gold, _, status in INVENTED if status is CORRECT]
    questions += [("Where is the lighthouse?", "on the northern cape"), ("What does Ilse teach?", "the violin")]
    questions += [("What is kept in the barrels?", "salted herring"), ("How many sheep are there?", "4,200")]
    questions += [("Which treaty ended the war?", "the Treaty of Windsor"), ("What froze in 1709?", "the harbour")]
    found = [
        attack
        for seed in range(5)
        for attack in adversarial_answers(questions, TESTING, families_a_question=len(TESTING), seed=seed)
    ]
    assert len(found) >= 200
    verdicts = LearnedGrader().grade([asked(attack.question, attack.gold, attack.answer) for attack in found])
    accepted = [attack for attack, verdict in zip(found, verdicts, strict=True) if verdict.status is not WRONG]
    assert len(accepted) <= 0.01 * len(found), accepted
