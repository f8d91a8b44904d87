"""Hydra's own sweeper, with fast repeats of a sweep and with lists of single jobs.

Hydra composes all jobs before the first starts, so that a misspelt name in the last one is found
at once, throws the result away, composes each again to run it, and reads every file anew each time.
For jobs that only find that they are done, that is most of their time.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from harness.config.compose import read_once
from harness.system.errors import UserError

MOST_JOBS = 100_000


class Once(BasicSweeper):
    """Reads every file once, and keeps what the check of a batch has composed for its jobs.

    params: values by setting; the jobs are all combinations.
    jobs: settings of single jobs, as one types them; each is combined with the others. For sweeps
        whose settings belong together, as the rows of a paper do.
    """

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None = None,
        jobs: Sequence[str] | None = None,
    ) -> None:
        super().__init__(max_batch_size, params)
        self.jobs = [shlex.split(words) for words in jobs or ()]

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs.

        Raises  UserError: there are none, or more than anybody can mean. HydraException: a word
                cannot be read.
        """
        assert self.hydra_context is not None and self.config is not None
        demand_jobs(arguments, self.hydra_context.config_loader)
        demand_own(arguments, self.jobs)
        try:
            return super().sweep(arguments)
        except HydraException:  # no job has begun: Hydra's own note of the sweep says nothing
            folder = Path(str(OmegaConf.select(self.config, "hydra.sweep.dir")))
            (folder / "multirun.yaml").unlink(missing_ok=True)
            with suppress(OSError):  # other files lie there
                folder.rmdir()
                folder.parent.rmdir()
            raise

    def get_job_batch(self) -> Sequence[Sequence[str]]:
        """Return the words of each job of the next batch."""
        batch = super().get_job_batch()
        return [[*own, *words] for own in self.jobs or [[]] for words in batch]

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


def demand_jobs(words: Sequence[str], loader: ConfigLoader) -> None:
    """Refuse words of a sweep that give no job, or more than anybody can mean.

    Raises  UserError: the word. HydraException: it cannot be read.
    """
    numbers = []
    for override in OverridesParser.create(loader).parse_overrides(list(words)):
        if not override.is_sweep_override():
            continue
        if override.is_interval_sweep():
            raise UserError(f"{override.input_line}: give a list, as 1,2,3, or range(1,4)")
        numbers.append(_num_values(override))
        if not numbers[-1]:
            raise UserError(f"{override.input_line} is no job at all: give values, as 1,2,3")
    if math.prod(numbers) > MOST_JOBS:
        raise UserError(f"{' '.join(words)} is more than {MOST_JOBS} jobs: give fewer values")


def demand_own(words: Sequence[str], jobs: Sequence[Sequence[str]]) -> None:
    """Refuse words of a sweep that its listed jobs set themselves.

    Raises  UserError: the word.
    """
    listed = {word.partition("=")[0]: job for job in jobs for word in job}
    for word in words:
        if job := listed.get(word.partition("=")[0]):
            raise UserError(
                f"{word}: every job of this experiment sets {word.partition('=')[0]} itself; leave "
                "the word out, or run one job alone: python -m harness, the experiment's model and "
                f"suite, and for example {shlex.join(job)}"
            )


def _num_values(override: Override) -> int:
    """How many values a word sweeps over; no more than just too many are counted."""
    value = override.value()
    if isinstance(value, RangeSweep):
        steps = (float(value.stop or 0) - float(value.start or 0)) / float(value.step or math.nan)
        if not math.isfinite(steps):
            raise UserError(f"{override.input_line}: give a range whose step is not 0")
        return max(0, math.ceil(steps))
    return sum(1 for _ in islice(override.sweep_iterator(), MOST_JOBS + 1))
