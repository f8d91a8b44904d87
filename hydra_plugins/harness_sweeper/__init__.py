"""A sweeper that composes each job once, and that also takes lists of single jobs.

Hydra's own sweeper composes all jobs before the first starts, so that a misspelt name in the last
one is found at once. It then discards them, composes each again to run it, and reads every file
again each time. For jobs that only find that they are done, this is most of their time.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

# Hydra has no public name for its own launcher and sweeper; the version is pinned below 1.4.
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from harness.config.compose import read_once
from harness.system.errors import UserError

MOST_JOBS = 100_000


class Once(BasicSweeper):
    """Reads every file once, and runs the jobs as the check of their batch has composed them.

    params: values by setting; the jobs are all combinations.
    jobs: settings of single jobs, as typed on a command line, each combined with all of `params`.
        For sweeps whose settings belong together, such as the rows of a paper.
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
        """Run the jobs of the sweep, and return what the launcher returns of them.

        arguments: the words of the command line.

        Raises  UserError: there are no jobs, or more than MOST_JOBS, or a word gives a setting that
                one of the listed jobs gives too. HydraException: a word cannot be parsed.
        """
        assert self.hydra_context is not None and self.config is not None
        demand_jobs(arguments, self.hydra_context.config_loader)
        listed = {word.partition("=")[0]: job for job in self.jobs for word in job}
        for word in arguments:
            setting = word.partition("=")[0]
            if job := listed.get(setting):
                raise UserError(
                    f"{word}: every job of this experiment sets {setting} itself; leave the word "
                    "out, or run one job alone: python -m harness, the experiment's model and "
                    f"suite, and for example {shlex.join(job)}"
                )
        try:
            return super().sweep(arguments)
        except HydraException:
            # No job has begun, so the file that Hydra has written about the sweep is of no use.
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
        # The method of the class: after the first batch, the loader has `once` in its place.
        compose: Callable[..., DictConfig] = type(loader).load_sweep_config
        composed = {tuple(job): compose(loader, self.config, list(job)) for job in batch}

        def once(master: DictConfig, job: list[str]) -> DictConfig:
            # Each is given away once, because Hydra changes the configuration of a job that runs.
            return composed.pop(tuple(job), None) or compose(loader, master, job)

        # The launcher composes a job by this method just before it runs the job.
        loader.load_sweep_config = once


def demand_jobs(words: Sequence[str], loader: ConfigLoader) -> None:
    """Check that the words of a sweep give at least one job, and at most MOST_JOBS.

    Raises  UserError: they do not; the message names the word. HydraException: a word cannot be
            parsed.
    """
    numbers = []
    for override in OverridesParser.create(loader).parse_overrides(list(words)):
        if not override.is_sweep_override():
            continue
        if override.is_interval_sweep():
            raise UserError(f"{override.input_line}: give a list, as 1,2,3, or range(1,4)")
        value = override.value()
        if isinstance(value, RangeSweep):
            # From its bounds: a range may be longer than anybody can wait for.
            step = float(value.step or math.nan)
            steps = (float(value.stop or 0) - float(value.start or 0)) / step
            if not math.isfinite(steps):
                raise UserError(f"{override.input_line}: give a range whose step is not 0")
            numbers.append(max(0, math.ceil(steps)))
        else:
            # One more than is allowed is enough to refuse them.
            numbers.append(sum(1 for _ in islice(override.sweep_iterator(), MOST_JOBS + 1)))
        if not numbers[-1]:
            raise UserError(f"{override.input_line} is no job at all: give values, as 1,2,3")
    if math.prod(numbers) > MOST_JOBS:
        raise UserError(f"{' '.join(words)} is more than {MOST_JOBS} jobs: give fewer values")
