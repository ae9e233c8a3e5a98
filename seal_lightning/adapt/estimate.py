"""What an adaptation will take, from a few seconds of the very work: writing, reading and training on the model itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from seal_lightning.adapt.anchoring import ANCHOR_TOKENS, TOKENS_A_STEP
from seal_lightning.adapt.edit_selection import EDITS_AT_ONCE
from seal_lightning.adapt.probe import probe_questions
from seal_lightning.adapt.question_split import PASSAGES_AT_ONCE
from seal_lightning.adapt.spec import AdaptSpec
from seal_lightning.core import Adapted, GenerationRequest, Prompt, SamplingSpec, ScoreRequest
from seal_lightning.domains.knowledge import Passage
from seal_lightning.training.module import SealModule

_FEW, _MANY = 1, 8
"""Texts written side by side in the two timings of writing."""
_TOKENS = 12
_QUESTION_TOKENS = 30
"""Of a question and its answer in an exam, about."""
_ANSWERS_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What this machine does with this model."""

    step_s: float
    """Seconds a token of one text."""
    text_s: float
    """Seconds more for each further text beside it."""
    read_token_s: float
    """Seconds a token of a prompt."""
    trained_token_s: float
    """Seconds a token in training, there and back."""

    def writing(self, num_texts: int, num_tokens: int, at_once: int) -> float:
        """Seconds to write so many texts of so many tokens at most."""
        whole, rest = divmod(num_texts, at_once)
        batches = [at_once] * whole + [rest] * (rest > 0)
        return sum(num_tokens * (self.step_s + (size - 1) * self.text_s) for size in batches)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One piece of the work."""

    name: str
    seconds: float
    tokens_written: int = 0
    tokens_trained: int = 0


def measured_rates(module: SealModule, passage: Passage) -> Rates:
    """Time a few tokens, a prompt and a step; what is made at first use only is not counted."""
    plan = module.domain.plan_without_edit(passage)
    once = replace(plan, optimizer=replace(plan.optimizer, max_steps=1))
    prompt = module.domain.edit_prompt(passage)
    _write(module, 1)
    num_tokens = sum(one.num_tokens for one in module.inner_loop.adapt([once], [0]) if isinstance(one, Adapted))
    few, many = _seconds(lambda: _write(module, _FEW)), _seconds(lambda: _write(module, _MANY))
    read = _seconds(lambda: module.engine.score([ScoreRequest(prompt=prompt, target=".")]))
    trained = _seconds(lambda: module.inner_loop.adapt([once], [0]))
    return Rates(
        step_s=few / _TOKENS,
        text_s=max(0.0, many - few) / _TOKENS / (_MANY - _FEW),
        read_token_s=read / len(module.learner.prompt_ids(prompt)),
        trained_token_s=trained / max(1, num_tokens),
    )


@dataclass(frozen=True, kw_only=True)
class WorkAhead:
    """An adaptation's work, as if every text were as long as it may be: rather more than it will take."""

    module: SealModule
    spec: AdaptSpec
    passages: Sequence[Passage]
    rates: Rates
    by_user: bool
    """Whether questions were given."""

    def phases(self) -> list[Phase]:
        """In their order."""
        questions, edits = [self._questions()] * (self._num_asked > 0), [self._edits()] * (self.spec.keep > 0)
        return [*questions, *edits, self._learning(), self._exams()]

    def _questions(self) -> Phase:
        turns, num_tokens = 1 + self.spec.question_retries, self.spec.question_sampling.max_new_tokens
        prompt = self.module.domain.question_prompt(self.passages[0], self.spec.num_questions)
        share = self._num_asked / len(self.passages)
        once = self.rates.writing(self._num_asked, num_tokens, PASSAGES_AT_ONCE) + share * self._reading(prompt)
        return Phase(name="questions", seconds=turns * once, tokens_written=turns * self._num_asked * num_tokens)

    def _edits(self) -> Phase:
        """Edits written, and tried beside the passage alone."""
        num_edits, num_tokens = self.module.num_edits, self.module.sampling.max_new_tokens
        num_texts = len(self.passages) * num_edits
        tried = self._passage_tokens * (num_edits + 1) + num_texts * num_tokens
        tried *= self.module.domain.plan_without_edit(self.passages[0]).optimizer.num_epochs * self.module.num_repeats
        asked = self._num_questions * (num_edits + 1) * self.module.num_repeats * _QUESTION_TOKENS
        at_once = max(1, EDITS_AT_ONCE // num_edits) * num_edits
        seconds = self.rates.writing(num_texts, num_tokens, at_once) + tried * self.rates.trained_token_s
        seconds += self._reading(self.module.domain.edit_prompt(self.passages[0])) + asked * self.rates.read_token_s
        return Phase(name="edits", seconds=seconds, tokens_written=num_texts * num_tokens, tokens_trained=tried)

    def _learning(self) -> Phase:
        """The adapter, and its control in as many steps."""
        edits = len(self.passages) * min(self.spec.keep, self.module.num_edits) * self.module.sampling.max_new_tokens
        plan = self.module.protocol.plan(self.module.domain.plan_without_edit(self.passages[0]))
        tokens = (self._passage_tokens + edits) * plan.optimizer.num_epochs
        if self.spec.anchor_weight:
            sequences = len(self.passages) * (1 + min(self.spec.keep, self.module.num_edits))
            tokens += plan.optimizer.num_epochs * plan.num_batches(sequences) * TOKENS_A_STEP
        learned = tokens * self._courses
        seconds, written = learned * self.rates.trained_token_s, 0
        if self.spec.anchor_weight:
            seconds += self.rates.writing(self.spec.anchor_texts, ANCHOR_TOKENS, self.spec.anchor_texts)
            written = self.spec.anchor_texts * ANCHOR_TOKENS
        return Phase(name="learning", seconds=seconds, tokens_written=written, tokens_trained=learned)

    def _exams(self) -> Phase:
        conditions = 1 + self._courses
        num_questions = self._num_questions + len(probe_questions())
        num_answers = num_questions * conditions * self.spec.answers
        num_tokens = getattr(self.module.domain, "max_answer_tokens", 64)
        seconds = self.rates.writing(num_answers, num_tokens, _ANSWERS_AT_ONCE)
        seconds += 2 * num_questions * conditions * _QUESTION_TOKENS * self.rates.read_token_s
        return Phase(name="exams", seconds=seconds, tokens_written=num_answers * num_tokens)

    @property
    def _num_asked(self) -> int:
        """Passages that the model is asked for questions on: all, or those on which the user has not two."""
        if not self.by_user:
            return len(self.passages)
        return sum(len(passage.questions) < 2 for passage in self.passages) if self.spec.keep else 0

    @property
    def _courses(self) -> int:
        """Trainings: the adapter's, and its control's."""
        return 1 + (self.spec.control and self.spec.keep > 0)

    @property
    def _num_questions(self) -> int:
        """That choose, and as many that examine."""
        if self.by_user:
            return -(-sum(len(passage.questions) for passage in self.passages) // 2)
        return len(self.passages) * self.spec.num_questions // 2

    @property
    def _passage_tokens(self) -> int:
        plans = [self.module.domain.plan_without_edit(passage) for passage in self.passages]
        texts = [segment.text for plan in plans for sequence in plan.sequences for segment in sequence.segments]
        return sum(len(self.module.learner.encode_text(text)) for text in texts)

    def _reading(self, prompt: Prompt) -> float:
        """Seconds to read such a prompt on each passage."""
        num_tokens = len(self.module.learner.prompt_ids(prompt))
        return len(self.passages) * num_tokens * self.rates.read_token_s


def _write(module: SealModule, num_texts: int) -> None:
    sampling = SamplingSpec(temperature=1.0, top_p=1.0, max_new_tokens=_TOKENS)
    requests = [GenerationRequest(prompt="Once upon a time", sampling=sampling, seed=seed) for seed in range(num_texts)]
    module.engine.generate(requests)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
