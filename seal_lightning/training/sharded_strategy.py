"""Lightning's FSDP2 strategy with SEAL's own checkpoints, groups of ranks, and checks of a run's settings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from seal_lightning.core.errors import ConfigError
from seal_lightning.core.interfaces import Engine, InnerLoop
from seal_lightning.distributed.sharded_layers import ShardingOptions
from seal_lightning.distributed.tensor_shards import here, like, rows_here, whole
from seal_lightning.generation.vllm.engine import VllmEngine
from seal_lightning.models.quantization import is_quantized
from seal_lightning.training.full_policy import FullPolicy
from seal_lightning.training.policy import Policy


class ShardedStrategy(ModelParallelStrategy):
    """Spreads the policy's layers over ranks (FSDP2); see ``configs/trainer/fsdp.yaml`` and ``docs/fsdp.md``.

    Args:
        ranks_per_copy: ≥ 1, number of ranks over which one copy of the layers is spread; the number of all ranks must be
            a multiple. None: all ranks.
        whole_replicas: keep all weights on each rank outside the M-step; ``auto``: where they take no more than half of
            its memory. Otherwise a vLLM server must write the edits and a ``model.student`` be adapted.
        cpu_offload: keep the shards in the host's memory.
        compute_dtype: type in which layers compute; None is the type of the weights.
        process_group_backend: nccl or gloo; None goes by the device.
        timeout: how long a rank may be silent before the others give up.

    Example:
        >>> ShardedStrategy(ranks_per_copy=8, compute_dtype="bfloat16").options.whole_replicas
        'auto'
    """

    def __init__(
        self,
        ranks_per_copy: int | None = None,
        whole_replicas: Literal["auto", "always", "never"] = "auto",
        cpu_offload: bool = False,
        compute_dtype: Literal["bfloat16", "float16", "float32"] | None = None,
        process_group_backend: str | None = None,
        timeout: timedelta = timedelta(minutes=30),
    ) -> None:
        if ranks_per_copy is not None and ranks_per_copy < 1:
            raise ConfigError(f"trainer.strategy.ranks_per_copy: {ranks_per_copy} is not allowed; at least 1, or null")
        super().__init__(process_group_backend=process_group_backend, timeout=timeout)
        self.ranks_per_copy = ranks_per_copy
        self.options = ShardingOptions(
            whole_replicas=whole_replicas,
            cpu_offload=cpu_offload,
            compute_dtype=compute_dtype,
        )

    def setup_environment(self) -> None:
        """Start the process group. Raises :class:`ConfigError` where the ranks do not divide into groups of equal size."""
        num_ranks = self.num_nodes * self.num_processes
        each = self.ranks_per_copy or num_ranks
        if num_ranks % each != 0:
            raise ConfigError(
                f"trainer.strategy.ranks_per_copy: {each} is not allowed with {num_ranks} ranks (trainer.devices times "
                "trainer.num_nodes). It must divide their number; null spreads one copy over all"
            )
        self._data_parallel_size, self._tensor_parallel_size = num_ranks // each, each
        super().setup_environment()

    def model_to_device(self) -> None:
        """Move the parameters and buffers that are not sharded; shards may belong in the host's memory."""
        assert self.model is not None
        assert self.lightning_module is not None
        self.lightning_module._device = self.root_device  # as ``.to`` would set it
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            if not isinstance(tensor, DTensor):
                tensor.data = tensor.data.to(self.root_device)

    # LoRAs are whole on every rank, and one file with a manifest holds them. So the methods of Lightning's base class,
    # which ModelParallelStrategy replaces by a folder of pickles.
    lightning_module_state_dict = Strategy.lightning_module_state_dict
    load_model_state_dict = Strategy.load_model_state_dict
    save_checkpoint = Strategy.save_checkpoint
    load_checkpoint = Strategy.load_checkpoint
    lightning_restore_optimizer = Strategy.lightning_restore_optimizer

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimiser's state with whole tensors, on the first rank. A collective where they are sharded."""
        state: dict[str, Any] = Strategy.optimizer_state(self, optimizer)
        return {**state, "state": {key: self._whole(values) for key, values in state["state"].items()}}

    def _whole(self, values: Mapping[str, Any]) -> dict[str, Any]:
        kept = {}
        for name, value in values.items():
            gathered = whole(value).cpu() if isinstance(value, DTensor) else value
            kept[name] = gathered if self.is_global_zero else None
        return kept

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load the optimisers' states; of sharded weights this rank's rows."""
        states = []
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            held = {key: _sharded_as(parameters[int(key)], values) for key, values in state["state"].items()}
            states.append({**state, "state": held})
        Strategy.load_optimizer_state_dict(self, {**checkpoint, "optimizer_states": states})


def _sharded_as(parameter: Tensor, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimiser's state of one parameter, sharded as the parameter is."""
    if not isinstance(parameter, DTensor):
        return dict(values)
    return {
        name: like(rows_here(value, parameter).to(here(parameter).device), parameter)
        if isinstance(value, Tensor) and value.shape == parameter.shape
        else value
        for name, value in values.items()
    }


def spread(
    policy: Policy,
    strategy: Strategy,
    num_ranks: int,
    engine: Engine,
    in_place: InnerLoop | None,
    student: nn.Module | None = None,
) -> None:
    """Shard a policy where the strategy says so.

    Args:
        policy: not sharded yet.
        strategy: the trainer's.
        num_ranks: of the run.
        engine: writes the policy's edits.
        in_place: an inner loop that trains the policy's own weights, if that is how it adapts.
        student: the model that is adapted in the policy's place, if there is one; it stays whole.

    Raises :class:`ConfigError` for an inner loop and for weights that cannot be sharded, for weights too large to try
    edits on, and for a policy without LoRA on several ranks without sharding.
    """
    if isinstance(strategy, ShardedStrategy):
        if in_place is not None:
            raise ConfigError(
                f"model.inner_loop: {type(in_place).__name__} is not allowed with a sharded policy: it trains all weights, "
                "on each rank others. Take seal_lightning.inner_loop.BatchedInnerLoop, or configs/trainer/ddp.yaml"
            )
        if any(is_quantized(model) for model in (policy.model, student) if model is not None):
            raise ConfigError(
                "model.pretrained or model.student: quantised weights are not allowed with ShardedStrategy, which cannot "
                "spread their codes. Set quantization to null, take a checkpoint that is not quantised, or use "
                "configs/trainer/ddp.yaml"
            )
        policy.shard(strategy.device_mesh, strategy.options)  # [groups, ranks of a group]
        _check_edits_can_be_tried(policy, strategy.options, engine, student)
    elif num_ranks > 1 and isinstance(policy, FullPolicy):
        raise ConfigError(
            f"model.policy_adapter: null is not allowed with {type(strategy).__name__}: to train all weights on several "
            "ranks, use -c configs/trainer/fsdp.yaml"
        )


def _check_edits_can_be_tried(
    policy: Policy, options: ShardingOptions, engine: Engine, student: nn.Module | None
) -> None:
    """Raise :class:`ConfigError` where the E-step would need passes through layers that no rank holds."""
    assert policy.sharded is not None
    # A vLLM server writes with the policy, and adapters are trained on the student, so no pass needs the policy here.
    elsewhere = isinstance(engine, VllmEngine) and engine.max_difference is None and not isinstance(policy, FullPolicy)
    if policy.sharded.whole_replicas or (elsewhere and student is not None):
        return
    raise ConfigError(
        f"trainer.strategy.whole_replicas: the policy's weights ({policy.sharded.num_bytes / 2**30:.1f} GiB as they "
        f"compute) are not kept whole on each rank ({options.whole_replicas!r}), so edits cannot be tried on them. Use "
        "configs/trainer/ddp.yaml with model.pretrained.quantization: nf4, or VllmEngine (max_difference: null) with a "
        "model.student that fits one device, or set it to 'always' if the weights do fit"
    )
