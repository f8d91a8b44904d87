"""Composes the configuration of experiments."""

from __future__ import annotations

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from harness.commands.run import CONF


def composed(*words: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(words), return_hydra_config=True)
