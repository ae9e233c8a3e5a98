"""The exam: each test input in several views, and a vote over the views' answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seal_lightning.core import AnsweredQuestion, ExamPrompt
from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.core.seeds import derive_seed
from seal_lightning.domains.arc.grids import (
    ArcTask,
    Demonstration,
    Grid,
    GridText,
    InvalidGrid,
    TestPair,
    as_array,
    as_grid,
    as_text,
    share_of_cells_right,
)
from seal_lightning.domains.arc.prompts import solving_prompt
from seal_lightning.domains.arc.transforms import TRANSFORMS, Transform

NUM_ATTEMPTS = 2
"""ARC allows two attempts per test input."""


def vote(grids: Sequence[Grid]) -> tuple[Grid, ...]:
    """Return the most frequent grids, at most two; ties go to the grid that occurs first.

    A plain majority. The released code counts in how many transforms a grid occurs, by which it misses strict winners.
    """
    votes = Counter(grids)  # in the order of first occurrence, and the sort is stable
    return tuple(grid for grid, _ in votes.most_common(NUM_ATTEMPTS))


IDENTITY = "identity"


@dataclass(frozen=True, kw_only=True)
class ExamViews:
    """The views of a test input: each transform with each arrangement of the demonstrations.

    Example:
        >>> ExamViews(transforms=("identity", "transpose"), num_orders=0).leave_one_out
        True

    """

    transforms: tuple[str, ...] = (IDENTITY, "transpose", "flip_lr", "flip_ud", "rot90", "rot180")
    """Names of :data:`seal_lightning.domains.arc.transforms.TRANSFORMS`, the identity first: it wins ties."""
    num_orders: int = 1
    """≥ 0: further orders of the demonstrations; fewer where the task has no more."""
    leave_one_out: bool = True
    """Also leave out each demonstration (where two or more remain)."""

    def __post_init__(self) -> None:
        """Check the settings. Raises :class:`ConfigError`."""
        unknown = [name for name in self.transforms if name not in TRANSFORMS]
        repeated = len(set(self.transforms)) < len(self.transforms)
        if unknown or repeated or self.transforms[:1] != (IDENTITY,):
            raise ConfigError(
                f"views.transforms: {shown(self.transforms)} is not allowed; it must be {IDENTITY!r} and then any of "
                f"{', '.join(name for name in TRANSFORMS if name != IDENTITY)}, each at most once"
            )
        if self.num_orders < 0:
            raise ConfigError(f"views.num_orders: {self.num_orders} is not allowed; it must be at least 0")


@dataclass(frozen=True)
class _View:
    """A transform and an arrangement of the demonstrations."""

    name: str
    transform: Transform
    demonstrations: tuple[Demonstration, ...]

    def seen(self, grid: Grid) -> Grid:
        return as_grid(self.transform.apply(as_array(grid)))

    def unseen(self, grid: Grid) -> Grid:
        return as_grid(self.transform.inverse(as_array(grid)))


class Exam:
    """Writes the prompts for a task's test inputs, and turns the answers into attempts.

    Args:
        views: how each test input is shown.
        text: how grids are written.
        instruction: the system turn; empty for none.
        max_answer_tokens: ≥ 1, per view.
    """

    def __init__(self, views: ExamViews, text: GridText, instruction: str, max_answer_tokens: int) -> None:
        self.views = views
        self.text = text
        self.instruction = instruction
        self.max_answer_tokens = max_answer_tokens

    def prompts(self, task: ArcTask) -> tuple[ExamPrompt, ...]:
        """Return one prompt per test input and view. The target of an unpublished output is empty."""
        return tuple(
            self._prompt(_question_id(task, index), test, view)
            for index, test in enumerate(task.tests)
            for view in self._views(task)
        )

    def answered_questions(self, task: ArcTask, answers: Mapping[tuple[str, str], str]) -> tuple[AnsweredQuestion, ...]:
        """Decode each view's text, map it back and vote for two attempts; grids are written as digits.

        A text that is not a grid is counted as invalid; if all are invalid, the answer is empty, hence wrong.
        """
        views = list(self._views(task))
        return tuple(
            self._answered(_question_id(task, index), test, views, answers) for index, test in enumerate(task.tests)
        )

    def _prompt(self, question_id: str, test: TestPair, view: _View) -> ExamPrompt:
        shown = tuple(
            Demonstration(input=view.seen(one.input), output=view.seen(one.output)) for one in view.demonstrations
        )
        return ExamPrompt(
            question_id=question_id,
            view=view.name,
            prompt=solving_prompt(self.instruction, shown, view.seen(test.input), self.text),
            target="" if test.output is None else self.text.encode(view.seen(test.output)),
            max_new_tokens=self.max_answer_tokens,
        )

    def _answered(
        self, question_id: str, test: TestPair, views: Sequence[_View], answers: Mapping[tuple[str, str], str]
    ) -> AnsweredQuestion:
        found: list[Grid] = []
        for view in views:
            try:
                found.append(view.unseen(self.text.decode(answers[question_id, view.name])))
            except InvalidGrid:
                continue
        attempts = vote(found)
        gold = test.output
        credit = None if gold is None else max((share_of_cells_right(grid, gold) for grid in attempts), default=0.0)
        return AnsweredQuestion(
            question_id=question_id,
            question=as_text(test.input),
            gold_answers=() if gold is None else (as_text(gold),),
            answer=as_text(attempts[0]) if attempts else "",
            further_answers=tuple(as_text(grid) for grid in attempts[1:]),
            exact=True,
            partial_credit=credit,
            num_views=len(views),
            num_invalid=len(views) - len(found),
        )

    def _views(self, task: ArcTask) -> Iterator[_View]:
        arrangements = self._arrangements(task)
        for name in self.views.transforms:
            for arrangement, demonstrations in arrangements:
                yield _View(f"{name}{arrangement}", TRANSFORMS[name], demonstrations)

    def _arrangements(self, task: ArcTask) -> list[tuple[str, tuple[Demonstration, ...]]]:
        """Return the demonstrations as given, in other orders, and without each of them; none twice."""
        given = task.demonstrations
        found = [("", given)]
        found += [(f", order {number + 1}", order) for number, order in enumerate(self._other_orders(task))]
        if self.views.leave_one_out and len(given) > 2:
            found += [(f", without {i}", given[:i] + given[i + 1 :]) for i in range(len(given))]
        names: dict[tuple[Demonstration, ...], str] = {}
        for name, demonstrations in found:
            names.setdefault(demonstrations, name)
        return [(name, demonstrations) for demonstrations, name in names.items()]

    def _other_orders(self, task: ArcTask) -> list[tuple[Demonstration, ...]]:
        """Draw different orders, none the given one; fewer if there are no more or the draws do not find them."""
        given = task.demonstrations
        orders: list[tuple[Demonstration, ...]] = []
        for number in range(20 * self.views.num_orders):
            draw = np.random.default_rng(derive_seed(task.task_id, "order", number)).permutation(len(given))
            order = tuple(given[i] for i in draw)
            if order not in (given, *orders):
                orders.append(order)
            if len(orders) == self.views.num_orders:
                break
        return orders


def _question_id(task: ArcTask, index: int) -> str:
    return f"{task.task_id}-{index}"
