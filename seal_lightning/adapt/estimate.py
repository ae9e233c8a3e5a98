"""Estimate of an adaptation's work, from a few seconds of writing, reading and training on the model itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from seal_lightning.adapt.configuration import AdaptSpec
from seal_lightning.adapt.exam import probe_exam
from seal_lightning.adapt.final_training import ANCHOR_TOKENS, ANCHOR_TOKENS_PER_STEP
from seal_lightning.adapt.material import Material
from seal_lightning.core import Adapted, GenerationRequest, SamplingSpec, ScoreRequest
from seal_lightning.domains.knowledge import Passage
from seal_lightning.training.module import SealModule

_NUM_TEXTS, _NUM_TOKENS = 8, 12
"""Texts, and tokens of each, in the timing of writing."""
_QUESTION_TOKENS = 30
"""Rough length of a question with its answer in an exam."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Measured seconds per token of this machine with this model."""

    written: float
    """Of texts written side by side."""
    read: float
    """Of a prompt."""
    trained: float
    """In training, forward and backward."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A phase of the work, with its numbers of tokens."""

    name: str
    written: int = 0
    read: int = 0
    trained: int = 0

    def seconds(self, rates: Rates) -> float:
        """Return the estimated time."""
        return self.written * rates.written + self.read * rates.read + self.trained * rates.trained


def measured_rates(module: SealModule, passage: Passage) -> Rates:
    """Time a few tokens, a prompt and a training step, after a first run that warms up caches."""
    plan = module.domain.plan_without_edit(passage)
    once = replace(plan, optimizer=replace(plan.optimizer, max_steps=1))
    prompt = module.domain.edit_prompt(passage)
    sampling = SamplingSpec(temperature=1.0, top_p=1.0, max_new_tokens=_NUM_TOKENS)
    requests = [GenerationRequest(prompt="Once upon a time", sampling=sampling, seed=i) for i in range(_NUM_TEXTS)]
    module.engine.generate(requests[:1])
    num_trained = sum(one.num_tokens for one in module.inner_loop.adapt([once], [0]) if isinstance(one, Adapted))
    read = _seconds(lambda: module.engine.score([ScoreRequest(prompt=prompt, target=".")]))
    return Rates(
        written=_seconds(lambda: module.engine.generate(requests)) / (_NUM_TEXTS * _NUM_TOKENS),
        read=read / len(module.learner.prompt_ids(prompt)),
        trained=_seconds(lambda: module.inner_loop.adapt([once], [0])) / max(1, num_trained),
    )


def phases(module: SealModule, spec: AdaptSpec, material: Material) -> list[Phase]:
    """Return the phases of an adaptation, as if every text were as long as it may be: an upper estimate."""
    domain, passages = module.domain, material.passages
    num_passages, num_edits, repeats = len(passages), module.num_edits, module.num_repeats
    edit_tokens = module.sampling.max_new_tokens
    plans = [domain.plan_without_edit(passage) for passage in passages]
    texts = [segment.text for plan in plans for sequence in plan.sequences for segment in sequence.segments]
    passage_tokens = sum(len(module.learner.encode_text(text)) for text in texts)
    edit_prompt_tokens = len(module.learner.prompt_ids(domain.edit_prompt(passages[0])))
    question_prompt_tokens = len(module.learner.prompt_ids(domain.question_prompt(passages[0], spec.num_questions)))

    num_questions = num_passages * spec.num_questions
    num_asked = num_passages  # passages on which the model writes questions
    if material.has_questions:
        num_questions = sum(len(passage.questions) for passage in passages)
        num_asked = sum(len(passage.questions) < 2 for passage in passages) if spec.keep else 0
    half = -(-num_questions // 2)

    found = []
    if num_asked:
        asked = num_asked * (1 + spec.question_retries)
        written = asked * spec.question_sampling.max_new_tokens
        found.append(Phase(name="questions", written=written, read=asked * question_prompt_tokens))
    if spec.keep:
        tokens = passage_tokens * (num_edits + 1) + num_passages * num_edits * edit_tokens
        examined = half * (num_edits + 1) * repeats * _QUESTION_TOKENS
        found.append(
            Phase(
                name="edits",
                written=num_passages * num_edits * edit_tokens,
                read=num_passages * edit_prompt_tokens + examined,
                trained=tokens * plans[0].optimizer.num_epochs * repeats,
            )
        )
    num_kept = min(spec.keep, num_edits)
    plan = module.protocol.plan(plans[0])
    tokens = passage_tokens + num_passages * num_kept * edit_tokens
    if spec.anchor_weight:
        tokens += plan.num_batches(num_passages * (1 + num_kept)) * ANCHOR_TOKENS_PER_STEP
    num_trainings = 1 + (spec.control and spec.keep > 0)
    found.append(
        Phase(
            name="learning",
            written=spec.anchor_texts * ANCHOR_TOKENS if spec.anchor_weight else 0,
            trained=tokens * plan.optimizer.num_epochs * num_trainings,
        )
    )
    num_answers = (half + len(probe_exam())) * (1 + num_trainings)
    answer_tokens = getattr(domain, "max_answer_tokens", 64) if spec.answers else 0
    found.append(Phase(name="exams", written=num_answers * answer_tokens, read=2 * num_answers * _QUESTION_TOKENS))
    return found


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
