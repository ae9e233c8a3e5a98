"""One rank reads the model, the other gets it: bit for bit what it would have read, and without reading."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml
from children import end_all, ranks
from fakes import tiny_tokenizer
from test_end_to_end import config, final_loras
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from seal_lightning.core import AdapterSpec
from seal_lightning.core.errors import ModelError
from seal_lightning.models import shared_loading
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.training.policy import Policy

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
KINDS: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "tied": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": True, "rope_parameters": ROPE}, "float32"),
    "untied": (Qwen2ForCausalLM, Qwen2Config, {"tie_word_embeddings": False}, "bfloat16"),
    "scaled": (Gemma2ForCausalLM, Gemma2Config, {"head_dim": 8, "final_logit_softcapping": 3.0}, "float64"),
}


def write(folder: Path, kind: str) -> Path:
    model_class, config_class, settings, dtype = KINDS[kind]
    tokenizer = tiny_tokenizer()
    torch.manual_seed(1)
    model = model_class(config_class(vocab_size=len(tokenizer), eos_token_id=0, pad_token_id=0, **SIZES, **settings))
    model.to(getattr(torch, dtype)).save_pretrained(folder / kind)
    tokenizer.save_pretrained(folder / kind)
    return folder / kind


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def compared(shared: LanguageModel, direct: LanguageModel) -> dict[str, object]:
    """What is the same of two models; all of it must be."""
    ours, theirs, ids = tensors(shared.model), tensors(direct.model), torch.arange(1, 30)[None]
    text = "The stone 1 is green."
    # The last bits depend on where in memory equal weights lie: a file's are not aligned.
    rounding = 1e-2 if shared.model.dtype is torch.bfloat16 else 1e-5
    with torch.no_grad():
        logits = [m.model(input_ids=ids).logits for m in (shared, direct)]
    embeddings = [
        m.model.get_output_embeddings().weight is m.model.get_input_embeddings().weight for m in (shared, direct)
    ]
    return {
        "names": list(ours) == list(theirs),
        "bits": all(torch.equal(ours[n], theirs[n]) and ours[n].dtype is theirs[n].dtype for n in theirs),
        "logits": torch.allclose(*logits, atol=rounding),
        "ties": embeddings[0] == embeddings[1],
        "dtype": shared.model.dtype is direct.model.dtype,
        "attention": shared.model.config._attn_implementation == direct.model.config._attn_implementation,
        "config": shared.model.config.to_dict() == direct.model.config.to_dict(),
        "tokens": shared.encode_text(text) == direct.encode_text(text),
        "ends": shared.eos_ids == direct.eos_ids and shared.pad_id == direct.pad_id,
        "frozen": not any(p.requires_grad for p in shared.model.parameters()) and not shared.model.training,
    }


def refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError("this rank must not read")


def rank_main(rank: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    found: dict[str, object] = {}
    for kind, (_, _, _, dtype) in KINDS.items():
        pretrained = Pretrained(source=f"{folder}/{kind}", dtype=dtype, share_across_ranks=True)  # type: ignore[arg-type]
        with pytest.MonkeyPatch.context() as patched:
            if rank == 1:
                patched.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
                patched.setattr(AutoTokenizer, "from_pretrained", refuse)
            policy = Policy(pretrained, AdapterSpec(rank=2, alpha=4), seed=1, together=True)
        found[kind] = compared(policy.language_model, pretrained.load())
    missing = Pretrained(source=f"{folder}/nothing-here", share_across_ranks=True)
    found["missing"] = refusal(missing)
    with pytest.MonkeyPatch.context() as patched:
        if rank == 1:
            own = shared_loading._tensors
            patched.setattr(shared_loading, "_tensors", lambda m: list(own(m))[1:])
        found["other tensors"] = refusal(Pretrained(source=f"{folder}/tied", share_across_ranks=True))
    dist.barrier()
    Path(f"{folder}/found{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def refusal(pretrained: Pretrained) -> str:
    try:
        pretrained.load(together=True)
    except ModelError as error:
        return str(error)
    return "loaded"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found, started once for all tests below."""
    folder = tmp_path_factory.mktemp("shared")
    for kind in KINDS:
        write(folder, kind)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(rank_main, args=(str(folder), port), nprocs=2)
    return [json.loads((folder / f"found{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_load_shared_equals_reading(found: list[dict[str, Any]], kind: str) -> None:
    for of_rank in found:
        assert {name for name, same in of_rank[kind].items() if not same} == set()


@pytest.mark.slow
def test_load_shared_reports_a_missing_model(found: list[dict[str, Any]]) -> None:
    for of_rank in found:
        assert "nothing-here' cannot be loaded" in of_rank["missing"]
    assert found[1]["missing"].startswith("rank 0, which reads the model for all ranks, could not: ")


@pytest.mark.slow
def test_load_shared_refuses_other_tensors(found: list[dict[str, Any]]) -> None:
    for of_rank in found:
        assert "share_across_ranks: true is not allowed for this model" in of_rank["other tensors"]
        assert "embed_tokens.weight" in of_rank["other tensors"]


@pytest.mark.slow
def test_load_shared_alone_reads(tiny_folder: Path) -> None:
    assert Pretrained(source=str(tiny_folder), share_across_ranks=True).load(together=True).model.device.type == "cpu"


@pytest.mark.slow
def test_load_shared_run_ends_the_same(tiny_folder: Path, tmp_path: Path) -> None:
    loras = []
    for shared in (False, True):
        run_dir = tmp_path / f"run-{shared}"
        settings = config(tiny_folder, run_dir, rounds=1)
        settings["trainer"] |= {"devices": 2, "strategy": "ddp"}
        settings["model"]["pretrained"]["share_across_ranks"] = shared
        path = tmp_path / f"{shared}.yaml"
        path.write_text(yaml.safe_dump(settings))
        children = ranks(["fit", "-c", str(path)], tmp_path / f"logs-{shared}")
        try:
            assert [child.wait(120) for child in children] == [0, 0], children[0].printed()[-3000:]
        finally:
            end_all(children)
        loras.append(final_loras(run_dir, "round0-m_step"))
    for one, other in zip(*loras, strict=True):
        assert all(torch.allclose(one[key], other[key], atol=1e-9) for key in one)
