"""Saving and restoring of the process's global random generators.

No seed of a run comes from them (see :mod:`seal_lightning.core.seeds`), but a domain, grader or reward of yours may use them.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

RandomState = dict[str, Any]


def random_state() -> RandomState:
    """Return the states of Python's, NumPy's and torch's generators, as tensors and plain values."""
    numpy_state = np.random.get_state(legacy=False)  # type: ignore[call-overload,unused-ignore]
    assert isinstance(numpy_state, dict)
    generator = numpy_state["state"]
    state: RandomState = {
        "python": random.getstate(),
        "numpy": {**numpy_state, "state": {**generator, "key": torch.from_numpy(generator["key"].astype(np.int64))}},
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: RandomState) -> None:
    """Restore what :func:`random_state` returned; devices that no longer exist are skipped."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    saved = state["numpy"]
    np.random.set_state({**saved, "state": {**saved["state"], "key": saved["state"]["key"].numpy().astype(np.uint32)}})
    torch.set_rng_state(state["torch"].cpu())
    for device, cuda_state in enumerate(state.get("cuda", [])[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state.cpu(), device)
