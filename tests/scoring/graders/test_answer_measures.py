"""The measures of the learned grader, by hand; no encoder is needed."""

import math

import pytest
import torch

from seal_lightning.scoring.graders.answer_measures import MEASURES, log_odds, state_measures, word_measures


def test_words_by_hand():
    found = word_measures("When did the ship sail?", "in 1788", "The ship sailed in 1788\nor in 1790 from Belka")
    assert found == {
        "recall": 1,  # of 1788
        "fuzzy": 1,
        "f1": pytest.approx(2 * 2 / (2 + 9)),
        "lacks_numbers": 0,
        "meets_rules": 1,
        "precision": pytest.approx(1 / 4),  # of sailed, 1788, 1790 and belka
        "first_line_recall": 1,
        "share_of_gold": 1,
        "log_gold_words": pytest.approx(math.log(3)),
        "log_answer_words": pytest.approx(math.log(10)),
        "new_numbers": 1,
    }


def test_another_number():
    found = word_measures("When?", "1788", "1790")
    assert (found["recall"], found["lacks_numbers"], found["meets_rules"], found["new_numbers"]) == (0, 1, 0, 1)


def test_numbers_are_new_only_where_the_gold_answer_has_some():
    assert word_measures("Who?", "Anna Velde", "Anna Velde in 1788")["new_numbers"] == 0


def test_states_by_hand():
    one, two, three = torch.eye(5)[:3]
    found = state_measures(torch.stack([one, two]), torch.stack([2 * one, three, three]))
    assert found == {
        "found_on_average": pytest.approx(1 / 2),  # the first of two
        "found_at_least": pytest.approx(0),
        "backed_on_average": pytest.approx(1 / 3),
        "alike_as_a_whole": pytest.approx(2 / math.sqrt(2 * 8)),  # (1, 1, 0) and (2, 0, 2)
    }


def test_they_are_all_there_and_all_count():
    state = torch.eye(3)
    measures = word_measures("Who?", "Anna Velde", "Peter") | state_measures(state, state[:1])
    assert tuple(measures) == MEASURES
    weights = dict.fromkeys(MEASURES, 0.5)
    before = log_odds(weights, 1.0, measures)
    assert before == pytest.approx(1 + 0.5 * sum(measures.values()))
    for name in MEASURES:
        assert log_odds(weights | {name: 1.0}, 1.0, measures) == pytest.approx(before + 0.5 * measures[name])
