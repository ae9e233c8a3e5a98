"""The comparison of token states on invented states: no encoder is needed."""

import pytest
import torch

from seal_lightning.errors import ModelError
from seal_lightning.grading.answer_measures import NUM_MEASURES, answer_measures
from seal_lightning.grading.comparison import Compared, Comparison, alignments
from seal_lightning.grading.learned_grader import WEIGHTS, load_comparisons
from seal_lightning.grading.token_states import STATE_SIZE


def states(*lengths: int) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(sum(lengths))
    return [torch.randn(length, STATE_SIZE, generator=source) for length in lengths]


def measures(count: int) -> list[list[float]]:
    return [[0.1 * row + 0.01 * place for place in range(NUM_MEASURES)] for row in range(count)]


def trained() -> Comparison:
    """Every weight is other than zero, so that every part takes part."""
    torch.manual_seed(0)
    comparison = Comparison(projected=8, hidden=4)
    for weight in comparison.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return comparison.eval()


@torch.inference_mode()
def test_neighbours_and_padding_do_not_matter():
    comparison, golds, answers = trained(), states(1, 5, 2), states(7, 1, 12)
    together = comparison(Compared.of(golds, answers, measures(3)))
    alone = [comparison(Compared.of(golds[i : i + 1], answers[i : i + 1], measures(3)[i : i + 1])) for i in range(3)]
    assert torch.isfinite(together).all()
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("part", ["gold", "answer", "measures"])
def test_every_part_counts(part):
    comparison, golds, answers, rows = trained(), states(3), states(4), measures(1)
    before = comparison(Compared.of(golds, answers, rows))
    changed = {"gold": states(3, 1)[:1], "answer": states(4, 1)[:1], "measures": [[1.0] * NUM_MEASURES]}
    after = comparison(
        Compared.of(
            changed["gold"] if part == "gold" else golds,
            changed["answer"] if part == "answer" else answers,
            changed["measures"] if part == "measures" else rows,
        )
    )
    assert abs(float(after - before)) > 1e-3


def test_alignments_by_hand():
    one, two, three = torch.eye(STATE_SIZE)[:3]
    batch = Compared.of([torch.stack([one, two])], [torch.stack([2 * one, three, three])], measures(1))
    # "one" is found, "two" is not; of three tokens of the answer one is backed; (1, 1, 0) and (2, 0, 2) / 3
    assert alignments(batch)[0].tolist() == pytest.approx([1 / 2, 0, 1 / 3, 2 / (2**0.5 * 8**0.5)], abs=1e-6)


def test_measures_by_hand():
    found = answer_measures("When did the ship sail?", "in 1788", "The ship sailed in 1788\nor in 1790 from Belka")
    assert len(found) == NUM_MEASURES
    recall, fuzzy, f1, missing, rules, precision, first_line, share, _, _, others = found
    assert (recall, fuzzy, missing, rules, first_line, share, others) == (1, 1, 0, 1, 1, 1, 1)
    assert f1 == pytest.approx(2 * 2 / (2 + 9))
    assert precision == pytest.approx(1 / 5)  # of sailed, 1788, or … : those that the question does not have
    assert answer_measures("When?", "1788", "1790")[3:5] == (1, 0)


def test_the_shipped_weights_are_small_and_load():
    assert WEIGHTS.stat().st_size < 1_000_000
    comparisons = load_comparisons(WEIGHTS)
    assert comparisons
    assert all(not comparison.training for comparison in comparisons)
    assert all(
        value.dtype == torch.float32 and value.isfinite().all() for value in comparisons[0].state_dict().values()
    )


def test_broken_weights_are_an_error_that_says_so(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(WEIGHTS.read_bytes()[:1000])
    for name in ("cut", "missing"):
        with pytest.raises(ModelError, match="cannot be read"):
            load_comparisons(tmp_path / f"{name}.safetensors")
