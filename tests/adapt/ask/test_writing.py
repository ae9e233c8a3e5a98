"""One answer at a time: the engine's own, told in pieces, given up when nobody wants it; the model stays as it was."""

from pathlib import Path

import pytest
import torch
from adapted_folders import STRONG, random_adapter
from fakes import MAX_LENGTH, weights_hash
from transformers import AutoModelForCausalLM

from seal_lightning.adapt.ask.writing import Stopped, write
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


@pytest.mark.parametrize("spec", SPECS, ids=["greedy", "sampled", "stopped"])
@pytest.mark.parametrize("with_adapter", [True, False], ids=["adapted", "unadapted"])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_answer_is_the_engine_s(
    tiny: LanguageModel, adapter: LoraAdapter, spec: SamplingSpec, with_adapter: bool, seed: int
) -> None:
    chosen = adapter if with_adapter else None
    engine = TransformersEngine()
    engine.bind(tiny)
    (expected,) = engine.generate([GenerationRequest(prompt=PROMPT, sampling=spec, adapter=chosen, seed=seed)])
    pieces: list[str] = []
    found = write(tiny, tiny.prompt_ids(PROMPT), spec, adapter=chosen, seed=seed, tell=pieces.append)
    assert found == expected
    assert "".join(pieces) == found.text
    assert found.text, "nothing was compared"


def test_an_unadapted_answer_is_transformers_own(tiny: LanguageModel, tiny_folder: Path, adapter: LoraAdapter) -> None:
    """To the token, behind and before adapted answers; and no weight has moved."""
    before = weights_hash(tiny.model)
    ids = tiny.prompt_ids(PROMPT)
    reference = AutoModelForCausalLM.from_pretrained(tiny_folder)
    of_transformers = reference.generate(input_ids=torch.tensor([ids]), do_sample=False, max_new_tokens=24)[
        0, len(ids) :
    ].tolist()
    answers = [write(tiny, ids, SPECS[0], adapter=chosen) for chosen in (None, adapter, None)]
    assert [list(a.token_ids) == of_transformers for a in answers] == [True, False, True]
    assert weights_hash(tiny.model) == before
    assert not any(module._forward_hooks for module in tiny.model.modules())


def test_it_is_told_before_the_end(tiny: LanguageModel) -> None:
    pieces: list[str] = []
    write(tiny, tiny.prompt_ids(PROMPT), SamplingSpec(temperature=0, max_new_tokens=24), tell=pieces.append)
    assert len([piece for piece in pieces if piece]) > 3


def test_an_answer_that_is_given_up_ends_at_once(tiny: LanguageModel, adapter: LoraAdapter) -> None:
    asked = 0

    def given_up() -> bool:
        nonlocal asked
        asked += 1
        return asked == 3

    with pytest.raises(Stopped):
        write(tiny, tiny.prompt_ids(PROMPT), SPECS[0], adapter=adapter, given_up=given_up)
    assert asked == 3
    assert not any(module._forward_hooks for module in tiny.model.modules()), "the adapter stayed"


def test_an_answer_ends_with_the_context(tiny: LanguageModel) -> None:
    ids = (tiny.encode_text("stone red blue ") * MAX_LENGTH)[: MAX_LENGTH - 3]
    found = write(tiny, ids, SamplingSpec(temperature=0.0, max_new_tokens=1000))
    assert len(found.token_ids) <= 3
    assert found.finish_reason is FinishReason.LENGTH or found.token_ids[-1] in tiny.eos_ids
    with pytest.raises(DataError, match=f"{MAX_LENGTH} tokens; the model's context is {MAX_LENGTH}"):
        write(tiny, (ids * 2)[:MAX_LENGTH], SPECS[0])
