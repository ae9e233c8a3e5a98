"""What an adaptation will take, from a few seconds of the very work: writing and training are timed on the model itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from seal_lightning.domains.knowledge import Passage
from seal_lightning.evaluation import ContinualSelfEdits
from seal_lightning.incorporation.asked import PASSAGES_AT_ONCE
from seal_lightning.incorporation.spec import AdaptSpec
from seal_lightning.incorporation.trying import EDITS_AT_ONCE
from seal_lightning.module import SealModule
from seal_lightning.types import AdaptationPlan, GenerationRequest, SamplingSpec

_FEW, _MANY = 1, 8
"""Texts written side by side in the two timings of writing."""
_TOKENS = 12
_QUESTION_TOKENS = 30
"""Of a question and its answer in an exam, about."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What this machine does with this model."""

    step_s: float
    """Seconds a token of one text."""
    text_s: float
    """Seconds more for each further text beside it."""
    trained_token_s: float
    """Seconds a token in training."""

    def writing(self, num_texts: int, num_tokens: int, at_once: int) -> float:
        """Seconds to write so many texts of so many tokens at most."""
        whole, rest = divmod(num_texts, at_once)
        batches = [at_once] * whole + [rest] * (rest > 0)
        return sum(num_tokens * (self.step_s + (size - 1) * self.text_s) for size in batches)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One piece of the work."""

    name: str
    tokens_written: int
    tokens_trained: int
    seconds: float


def measured_rates(module: SealModule, passage: Passage) -> Rates:
    """Time a few tokens and two steps; the first of each is not counted."""
    plan = module.domain.plan_without_edit(passage)
    once = replace(plan, optimizer=replace(plan.optimizer, max_steps=1))
    few, many = (_seconds(lambda n=n: _write(module, n)) for n in (_FEW, _MANY))  # type: ignore[misc]
    num_tokens = sum(o.num_tokens for o in module.inner_loop.adapt([once], [0]) if hasattr(o, "num_tokens"))
    trained = _seconds(lambda: module.inner_loop.adapt([once], [0]))
    return Rates(
        step_s=few / _TOKENS,
        text_s=max(0.0, many - few) / _TOKENS / (_MANY - _FEW),
        trained_token_s=trained / max(1, num_tokens),
    )


def estimated(
    module: SealModule, spec: AdaptSpec, passages: Sequence[Passage], rates: Rates, by_user: bool
) -> list[Phase]:
    """The phases with their work and time, as if every text were as long as it may be: rather more than it will take."""
    num_passages, num_edits = len(passages), module.num_edits
    passage_tokens = sum(_tokens(module, module.domain.plan_without_edit(passage)) for passage in passages)
    question_tokens = spec.question_sampling.max_new_tokens
    edit_tokens = module.sampling.max_new_tokens
    num_examined = spec.num_questions * num_passages
    domain_epochs, final_epochs = _epochs(module, passages)
    prompts = [
        len(module.learner.prompt_ids(module.domain.question_prompt(passages[0], spec.num_questions))),
        len(module.learner.prompt_ids(module.domain.edit_prompt(passages[0]))),
    ]
    phases = []
    if not by_user:
        seconds = rates.writing(num_passages, question_tokens, PASSAGES_AT_ONCE)
        seconds += _read(rates, num_passages * prompts[0])
        phases.append(
            Phase(name="questions", tokens_written=num_passages * question_tokens, tokens_trained=0, seconds=seconds)
        )
    at_once = max(1, EDITS_AT_ONCE // num_edits) * num_edits
    tried = (passage_tokens * (num_edits + 1) + num_passages * num_edits * edit_tokens) * domain_epochs
    tried *= module.num_repeats
    asked = num_examined // 2 * (num_edits + 1) * module.num_repeats * _QUESTION_TOKENS
    seconds = rates.writing(num_passages * num_edits, edit_tokens, at_once) + tried * rates.trained_token_s
    seconds += _read(rates, num_passages * num_edits * prompts[1] + asked)
    written = num_passages * num_edits * edit_tokens
    phases.append(Phase(name="edits", tokens_written=written, tokens_trained=tried, seconds=seconds))
    kept = passage_tokens + num_passages * min(spec.keep, num_edits) * edit_tokens
    courses = 1 + spec.control
    learned = kept * final_epochs * courses
    phases.append(
        Phase(name="learning", tokens_written=0, tokens_trained=learned, seconds=learned * rates.trained_token_s)
    )
    answers = num_examined // 2 * (1 + courses) * spec.answers
    answer_tokens = min(getattr(module.domain, "max_answer_tokens", 64), 64)
    seconds = rates.writing(answers, answer_tokens, 32) + _read(rates, num_examined * (1 + courses) * _QUESTION_TOKENS)
    phases.append(Phase(name="exams", tokens_written=answers * answer_tokens, tokens_trained=0, seconds=seconds))
    return phases


def _epochs(module: SealModule, passages: Sequence[Passage]) -> tuple[int, int]:
    """Passes of a trial and of the final training."""
    plan = module.domain.plan_without_edit(passages[0])
    final = module.protocol.plan(plan)
    trial_epochs = plan.optimizer.num_epochs
    return trial_epochs, final.optimizer.num_epochs if not isinstance(
        module.protocol, ContinualSelfEdits
    ) else trial_epochs


def _tokens(module: SealModule, plan: AdaptationPlan) -> int:
    return sum(len(module.learner.encode_text(s.text)) for sequence in plan.sequences for s in sequence.segments)


def _read(rates: Rates, num_tokens: int) -> float:
    """Seconds to read so many tokens: a pass without its way back is about a third of the work of a step."""
    return num_tokens * rates.trained_token_s / 3


def _write(module: SealModule, num_texts: int) -> None:
    sampling = SamplingSpec(temperature=1.0, top_p=1.0, max_new_tokens=_TOKENS)
    requests = [GenerationRequest(prompt="Once upon a time", sampling=sampling, seed=seed) for seed in range(num_texts)]
    module.engine.generate(requests)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
