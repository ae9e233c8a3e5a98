"""Answers of adapted models: the engine's own, in pieces, cancelled on request; the model stays as it was."""

from pathlib import Path

import pytest
import torch
from adapted_folders import STRONG, random_adapter
from fakes import MAX_LENGTH, weights_hash
from transformers import AutoModelForCausalLM

from seal_lightning.adapt.ask.adapted_models import AdaptedModels
from seal_lightning.adapt.ask.streaming import AnswerStopped
from seal_lightning.core import FinishReason, GenerationRequest, SamplingSpec
from seal_lightning.core.errors import DataError
from seal_lightning.generation import TransformersEngine
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter

PROMPT = "Question: what is the colour of the stone?"
SPECS = [
    SamplingSpec(temperature=0.0, max_new_tokens=24),
    SamplingSpec(temperature=0.9, top_p=0.9, max_new_tokens=24),
    SamplingSpec(temperature=2.0, top_p=1.0, max_new_tokens=40, stop=("e", "th")),
]


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path) -> LoraAdapter:
    return random_adapter(str(tiny_folder), 1, STRONG, 0.3)


@pytest.fixture
def models(tiny: LanguageModel, adapter: LoraAdapter) -> AdaptedModels:
    return AdaptedModels(tiny, {"minerals": adapter})


@pytest.mark.parametrize("spec", SPECS, ids=["greedy", "sampled", "stopped"])
@pytest.mark.parametrize("name", ["minerals", None])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_answer_is_the_engines_and_its_pieces_add_up(
    models: AdaptedModels, spec: SamplingSpec, name: str | None, seed: int
) -> None:
    engine = TransformersEngine()
    engine.bind(models.language_model)
    request = GenerationRequest(prompt=PROMPT, sampling=spec, adapter=models.adapter(name), seed=seed)
    (expected,) = engine.generate([request])
    pieces: list[str] = []
    found = models.write(models.prompt_ids(PROMPT), spec, name, seed=seed, emit=pieces.append)
    assert found == expected
    assert "".join(pieces) == found.text
    assert found.text, "nothing was compared"


def test_an_unadapted_answer_is_transformers_own(models: AdaptedModels, tiny_folder: Path) -> None:
    """To the token, between adapted answers; and no weight has moved."""
    model = models.language_model.model
    before = weights_hash(model)
    ids = models.prompt_ids(PROMPT)
    reference = AutoModelForCausalLM.from_pretrained(tiny_folder)
    of_transformers = reference.generate(input_ids=torch.tensor([ids]), do_sample=False, max_new_tokens=24)[
        0, len(ids) :
    ].tolist()
    answers = [models.write(ids, SPECS[0], name) for name in (None, "minerals", None)]
    assert [list(a.token_ids) == of_transformers for a in answers] == [True, False, True]
    assert weights_hash(model) == before
    assert not any(module._forward_hooks for module in model.modules())


def test_pieces_come_before_the_end(models: AdaptedModels) -> None:
    pieces: list[str] = []
    spec = SamplingSpec(temperature=0, max_new_tokens=24)
    models.write(models.prompt_ids(PROMPT), spec, None, emit=pieces.append)
    assert len(pieces) > 3


def test_a_cancelled_answer_ends_at_once(models: AdaptedModels) -> None:
    checks = 0

    def is_cancelled() -> bool:
        nonlocal checks
        checks += 1
        return checks == 3

    with pytest.raises(AnswerStopped):
        models.write(models.prompt_ids(PROMPT), SPECS[0], "minerals", is_cancelled=is_cancelled)
    assert checks == 3
    hooks = [module._forward_hooks for module in models.language_model.model.modules()]
    assert not any(hooks), "the adapter stayed"


def test_an_answer_ends_with_the_context(models: AdaptedModels) -> None:
    tiny = models.language_model
    ids = (tiny.encode_text("stone red blue ") * MAX_LENGTH)[: MAX_LENGTH - 3]
    found = models.write(ids, SamplingSpec(temperature=0.0, max_new_tokens=1000), None)
    assert len(found.token_ids) <= 3
    assert found.finish_reason is FinishReason.LENGTH or found.token_ids[-1] in tiny.eos_ids
    with pytest.raises(DataError, match=f"{MAX_LENGTH} tokens; this model's maximum context length is {MAX_LENGTH}"):
        models.prompt_ids((ids * 2)[:MAX_LENGTH])
