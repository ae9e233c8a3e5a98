"""A trainer that lacks what rounds need is refused by name, before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes import ToyDomain, ToyTasks
from lightning.pytorch import Trainer

from seal_lightning.callbacks import BestOfK, RestEmBuffer
from seal_lightning.core.errors import ConfigError
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.storage.checkpoint_io import AtomicCheckpointIO
from seal_lightning.training.data_module import SealDataModule
from seal_lightning.training.module import SealModule

NEEDED: dict[str, Any] = {
    "max_epochs": 2,
    "reload_dataloaders_every_n_epochs": 1,
    "num_sanity_val_steps": 0,
    "check_val_every_n_epoch": 2,
    "inference_mode": False,
}


def fit(folder: Path, **settings: Any) -> None:
    callbacks = settings.pop("callbacks", [BestOfK(), RestEmBuffer()])
    plugins = settings.pop("plugins", [AtomicCheckpointIO()])
    module = SealModule(domain=ToyDomain(), pretrained=Pretrained(source="/no/such/model"), rounds=1)
    data = SealDataModule(train=ToyTasks(2), validation=ToyTasks(1, offset=5))
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        default_root_dir=str(folder),
        enable_progress_bar=False,
        callbacks=callbacks,
        plugins=plugins,
        **{**NEEDED, **settings},
    )
    trainer.fit(module, data)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"reload_dataloaders_every_n_epochs": 0}, r"trainer\.reload_dataloaders_every_n_epochs: 0 .* must be 1"),
        ({"max_epochs": 3}, r"trainer\.max_epochs: 3 .* must be 2"),
        ({"max_steps": 10}, r"trainer\.max_steps: 10 .* must be -1"),
        ({"num_sanity_val_steps": 1}, r"trainer\.num_sanity_val_steps: 1 .* must be 0"),
        ({"check_val_every_n_epoch": 1}, r"trainer\.check_val_every_n_epoch: 1 .* must be 2 times a number of rounds"),
        ({"inference_mode": True}, r"trainer\.inference_mode: True .* must be False"),
        ({"callbacks": []}, r"trainer\.callbacks: RestEmBuffer is missing"),
        ({"callbacks": [RestEmBuffer()]}, r"trainer\.callbacks has 0 reward filters"),
        ({"plugins": None}, r"trainer\.plugins: AtomicCheckpointIO is missing"),
    ],
)
def test_fit_refuses_a_trainer_without(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        fit(tmp_path, **settings)


def test_fit_refuses_a_plain_trainer(tmp_path: Path) -> None:
    module = SealModule(domain=ToyDomain(), pretrained=Pretrained(source="/no/such/model"), rounds=1)
    with pytest.raises(ConfigError, match="seal_trainer"):
        Trainer(max_epochs=2, accelerator="cpu", logger=False, default_root_dir=str(tmp_path)).fit(
            module, SealDataModule(train=ToyTasks(2))
        )


def test_fit_refuses_a_missing_data_module(tmp_path: Path) -> None:
    module = SealModule(domain=ToyDomain(), pretrained=Pretrained(source="/no/such/model"), rounds=1)
    with pytest.raises(ConfigError, match="a SealDataModule is missing"):
        Trainer(accelerator="cpu", logger=False, default_root_dir=str(tmp_path), **NEEDED).fit(module, [1])
