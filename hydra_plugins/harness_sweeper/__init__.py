"""Hydra's own sweeper, made quick for sweeps that are typed again.

Hydra composes all jobs before the first starts, so that a misspelt name in the last one is found
at once, throws the result away, composes each again to run it, and reads every file anew each time.
For jobs that only find that they are done, that is most of their time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import DictConfig

from harness.read_once import read_once


class Once(BasicSweeper):
    """Reads every file once, and keeps what the check of a batch has composed for its jobs."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose all jobs of a batch; a launcher in this process asks for them next.

        Raises  HydraException: one of them cannot be composed.
        """
        if not isinstance(self.launcher, BasicLauncher):  # others compose in their own processes
            super().validate_batch_is_legal(batch)
            return
        assert self.hydra_context is not None and self.config is not None
        loader: Any = self.hydra_context.config_loader
        read_once(loader)
        compose: Callable[..., DictConfig] = type(loader).load_sweep_config
        composed = {tuple(job): compose(loader, self.config, list(job)) for job in batch}

        def once(master: DictConfig, job: list[str]) -> DictConfig:
            return composed.pop(tuple(job), None) or compose(loader, master, job)

        loader.load_sweep_config = once
