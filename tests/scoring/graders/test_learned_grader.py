"""The learned grader: what needs no encoder, what happens without it, and (slow) what it makes of invented answers."""

import json
import os

import pytest
import torch
from benchmarks.adversarial_answers import WORDINGS, adversarial_answers

from seal_lightning.core import AnsweredQuestion, VerdictStatus
from seal_lightning.core.errors import ConfigError, ModelError
from seal_lightning.scoring.graders import LearnedGrader, LocalRules, learned_grader
from seal_lightning.scoring.graders.learned_grader import WEIGHTS, LearnedWeights

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
    learned_grader._encoder.cache_clear()


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


def test_the_shipped_weights_say_what_one_expects():
    """More of the gold answer, more probably right; missing and other numbers, less."""
    weights = LearnedWeights.read(WEIGHTS).weights
    assert min(weights[name] for name in ("fuzzy", "meets_rules", "found_on_average", "found_at_least")) > 0
    assert max(weights[name] for name in ("lacks_numbers", "new_numbers")) < 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stored: stored.pop("intercept"), "cannot be read"),
        (lambda stored: stored["weights"].update(recall=float("nan")), "cannot be read"),
        (lambda stored: stored["weights"].pop("recall"), "other measures"),
    ],
)
def test_weights_that_are_not_ours(tmp_path, change, message):
    stored = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    change(stored)
    (tmp_path / "weights.json").write_text(json.dumps(stored))
    with pytest.raises(ModelError, match=message):
        LearnedWeights.read(tmp_path / "weights.json")


def test_missing_weights(tmp_path):
    with pytest.raises(ModelError, match="install the package anew"):
        LearnedWeights.read(tmp_path / "weights.json")


STEAM = "increasing use of steam engines"
INVENTED = [
    (
        "What is the Belka's water used for?",
        "to irrigate orchards",
        "It irrigates the orchards of the valley.",
        CORRECT,
    ),
    ("Who built the mill at Torva?", "Anna Velde", "The mill at Torva was built by Anna Velde in 1788.", CORRECT),
    ("Who built the mill at Torva?", "Anna Velde", "The mill at Torva was built by Peter Hasse.", WRONG),
    ("When did the bridge fall?", "1788", "The bridge fell in 1788.", CORRECT),
    ("When did the bridge fall?", "1788", "The bridge fell in 1790.", WRONG),
    ("What made the valley's economy grow?", STEAM, "The rise of steam engines made it grow.", CORRECT),
    ("What made the valley's economy grow?", STEAM, "The wool that it sold made it grow.", WRONG),
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
def test_it_knows_words_that_mean_nearly_the_same():
    """Where the rules on words see no difference; for "correct" that is not always enough (README)."""
    question, gold = "What was Torva's main source of income?", "commerce"
    trade, fishing = ("Torva lived mainly from trade.", "Torva lived mainly from fishing.")
    encoder = learned_grader._encoder(torch.device("cpu"))
    near, far = learned_grader.measured(encoder, [(question, gold, trade), (question, gold, fishing)])
    assert {n: near[n] for n in ("recall", "f1", "precision")} == {n: far[n] for n in ("recall", "f1", "precision")}
    assert near["found_on_average"] > far["found_on_average"] + 0.05
    (better,) = LearnedGrader().grade([asked("What made the valley's economy grow?", STEAM, INVENTED[5][2])])
    (rules,) = LocalRules().grade([asked("What made the valley's economy grow?", STEAM, INVENTED[5][2])])
    assert (better.status, rules.status) == (CORRECT, WRONG)


@pytest.mark.slow
def test_a_verdict_depends_on_its_own_answer_and_the_threshold():
    answers = [asked(question, gold, answer) for question, gold, answer, _ in INVENTED]
    together = list(LearnedGrader().grade(answers))
    assert list(LearnedGrader().grade(answers[::-1]))[::-1] == together
    assert [LearnedGrader().grade([one])[0] for one in answers] == together
    assert {verdict.status for verdict in LearnedGrader(min_probability=0.999).grade(answers)} == {WRONG}


@pytest.mark.slow
def test_answers_that_speak_to_the_judge_are_wrong():
    """To invented questions; the README has the shares on real ones, and on lists that have the gold answer among others."""
    questions = [(question, gold) for question, gold, _, status in INVENTED if status is CORRECT]
    questions += [("Where is the lighthouse?", "on the northern cape"), ("What does Ilse teach?", "the violin")]
    questions += [("What is kept in the barrels?", "salted herring"), ("How many sheep are there?", "4,200")]
    questions += [("Which treaty ended the war?", "the Treaty of Windsor"), ("What froze in 1709?", "the harbour")]
    found = [
        attack
        for seed in range(5)
        for attack in adversarial_answers(questions, families_a_question=len(WORDINGS), seed=seed)
        if attack.family != "hedge"
    ]
    assert len(found) >= 200
    verdicts = LearnedGrader().grade([asked(attack.question, attack.gold, attack.answer) for attack in found])
    accepted = [attack for attack, verdict in zip(found, verdicts, strict=True) if verdict.status is not WRONG]
    assert len(accepted) <= 0.01 * len(found), accepted
