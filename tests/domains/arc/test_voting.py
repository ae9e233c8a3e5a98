"""From many answers to two attempts: a plain majority, and ties to whose view came first."""

import random

from seal_lightning.domains.arc.voting import vote


def grid(number):
    return ((number // 10, number % 10),)


def ballots(numbers):
    return [grid(number) for number in numbers]


def test_no_votes_no_attempts():
    assert vote([]) == ()


def test_one_answer_is_one_attempt():
    assert vote(ballots([3, 3, 3])) == (grid(3),)


def test_the_most_frequent_come_first():
    assert vote(ballots([1, 2, 2, 3, 3, 3])) == (grid(3), grid(2))


def test_ties_go_to_whose_view_came_first():
    assert vote(ballots([1, 2, 3])) == (grid(1), grid(2))
    assert vote(ballots([2, 1, 1, 2, 3])) == (grid(2), grid(1))
    assert vote(ballots([5, 4, 3, 3])) == (grid(3), grid(5))
    assert vote(ballots([3, 9, 8, 9, 8])) == (grid(9), grid(8))


def test_a_grid_equals_only_itself():
    tall, wide = ((1,), (1,)), ((1, 1),)
    assert vote([wide, tall, tall]) == (tall, wide)


def test_random_ballots_agree_with_counting_by_hand():
    """1,000 ballots of the sizes an exam has; those with a strict winner have it as the first attempt."""
    rng = random.Random(0)
    num_strict = 0
    for _ in range(1_000):
        numbers = [rng.randrange(rng.choice((2, 4, 12))) for _ in range(rng.randint(1, 36))]
        counts = [(sum(other == number for other in numbers), number) for number in set(numbers)]
        most = max(count for count, _ in counts)
        winners = [number for count, number in counts if count == most]
        attempts = vote(ballots(numbers))
        assert len(attempts) == min(2, len(counts))
        assert attempts[0] == grid(min(winners, key=numbers.index))
        if len(winners) == 1:
            num_strict += 1
            assert attempts[0] == grid(winners[0])
        rest = [(count, -numbers.index(number), number) for count, number in counts if grid(number) != attempts[0]]
        assert attempts[1:] == ((grid(max(rest)[2]),) if rest else ())
    assert num_strict > 600
