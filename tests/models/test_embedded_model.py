"""The real embedded model: it comes, it knows what it should, and an inner loop teaches it a passage."""

import pytest

from seal_lightning.core import Adapted, AdapterSpec, GenerationRequest, OptimizerSpec, SamplingSpec, ScoreRequest
from seal_lightning.domains.knowledge import BundledPassages, KnowledgeDomain
from seal_lightning.generation import TransformersEngine
from seal_lightning.inner_loop import BatchedInnerLoop
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.pretrained import Pretrained, embedded_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def embedded() -> LanguageModel:
    return Pretrained().load()


def test_embedded_model_is_fetched_once(embedded: LanguageModel) -> None:
    before = (embedded_folder() / "model.safetensors").stat().st_mtime_ns
    assert embedded_folder() == embedded_folder()
    assert (embedded_folder() / "model.safetensors").stat().st_mtime_ns == before
    named_alike = [path for path in embedded_folder().parent.iterdir() if path.name.startswith("smollm2-")]
    assert named_alike == [embedded_folder()], "scratch was left"


def test_embedded_model_is_smollm2(embedded: LanguageModel) -> None:
    engine = TransformersEngine()
    engine.bind(embedded)
    sampling = SamplingSpec(temperature=0, max_new_tokens=4)
    completion = engine.generate([GenerationRequest(prompt="The capital of France is", sampling=sampling)])[0]
    assert completion.text.startswith(" Paris")


def test_embedded_model_learns_a_passage(embedded: LanguageModel) -> None:
    """Five steps on a passage raise its answers' mean log-probability; measured +2.9 for the first test passage."""
    task = BundledPassages(split="test", limit=1).load()[0]
    domain = KnowledgeDomain(
        adapter=AdapterSpec(rank=16, alpha=16, target_modules="all-linear", layers=tuple(range(20, 30))),
        optimizer=OptimizerSpec(learning_rate=5e-3, num_epochs=4, schedule="constant"),
    )
    loop, engine = BatchedInnerLoop(), TransformersEngine()
    loop.bind(embedded)
    engine.bind(embedded)
    (outcome,) = loop.adapt([domain.plan_without_edit(task)], [1])
    assert isinstance(outcome, Adapted)
    means = []
    for adapter in (None, outcome.adapter):
        requests = [ScoreRequest(prompt=p.prompt, target=p.target, adapter=adapter) for p in domain.exam(task)]
        means.append(sum(sum(s) / len(s) for s in engine.score(requests)) / len(requests))
    assert means[1] > means[0] + 1.0, means
