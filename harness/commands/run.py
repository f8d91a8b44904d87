"""The Hydra entry point: composes the configuration, executes the jobs, prints the table.

It never imports torch, so it starts fast and holds no device memory.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import hydra
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from harness.config.hydra_errors import OF_COMPOSING, demand_choices, sentence
from harness.config.messages import complain, verb
from harness.config.request import requested_runs
from harness.results import all_runs, observations
from harness.results.run import Run, run_id_of
from harness.results.run_state import RunState
from harness.results.scores import Key
from harness.runs import sweep
from harness.runs.job import carry_out
from harness.runs.sweep import Job
from harness.system.errors import USER_ERROR, RunFailed, UserError, first_line
from harness.system.logs import begin, log
from harness.system.paths import CONF


class Command:
    """The jobs of one command line that ran in this process, with their results."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.complained: set[str] = set()  # error messages printed so far
        self._warned: set[str] = set()

    def job(self, config: DictConfig) -> None:
        """Execute one job; an error is printed and recorded, and later jobs still run."""
        # Recorded before anything can fail: a record that stays `running` is a process that died.
        begun = Job.begun().record()
        start = time.perf_counter()
        try:
            begin()  # a launcher's process has no logging handler yet
            run, reference = requested_runs(config)
            begin(config.run.log)
            self._warn(run)
            ended = self._carry_out(begun, run, reference, config.run.dry)
        except (UserError, OmegaConfBaseException) as error:
            self._complain(error)
            ended = replace(begun, state="failed", cause="settings", reason=sentence(error))
        except OSError as error:  # such as a full disk
            reason = f"cannot go on: {error}; finished videos are kept"
            self._complain(UserError(reason))
            ended = replace(begun, state="failed", cause="settings", reason=reason)
        self.jobs.append(replace(ended, seconds=time.perf_counter() - start).record())

    def _carry_out(self, begun: Job, run: Run, reference: Run, dry: bool) -> Job:
        """Execute a job, or a dry run of it, and return it with its result."""
        keys = [item.key for item in run.items]
        known = replace(
            begun,
            name=str(run.folder.relative_to(run.results_dir)),
            total=len(keys),
            results_dir=run.results_dir,
            folders=(str(reference.folder), str(run.folder)),
            videos=tuple(keys),
        )
        if dry:
            # Late: a run itself never plans.
            from harness.planning.dry_run import outlooks

            found = tuple(map(asdict, outlooks(run, reference)))
            return replace(known, state="dry", outlooks=found)
        known.record()  # a job that dies from here on still has its name and folders
        try:
            return replace(known, state=carry_out(run, reference), made=len(keys))
        except RunFailed as error:
            self._complain(error)
            # Some videos may be there. They are counted from the rows, which the child has written.
            known = replace(known, state="failed", cause=error.cause, reason=error.reason)
            return replace(known, made=len(RunState.read(run.folder).made.keys() & set(keys)))
        except UserError as error:  # no folders: its rows may be what cannot be read
            self._complain(error)
            reason = sentence(error)
            return replace(known, state="failed", cause="settings", reason=reason, folders=())

    def _complain(self, error: Exception) -> None:
        """Print an error message, unless an earlier job printed the same one.

        `sweep.show_failures` prints at the end how many jobs share it.
        """
        # One mistake in a setting fails every job of a sweep.
        said = sentence(error)
        if said not in self.complained:
            complain(error)
            self.complained.add(said)

    def _warn(self, run: Run) -> None:
        """Print once the notes that apply to all videos, and whether prompts are not official."""
        suite = run.suite
        # Before the videos: it may be a reason to stop the command.
        for note in run.notes:
            if note not in self._warned:
                self._warned.add(note)
                log.warning(f"{note}; every row says so (column notes)")
        if suite.source == "bundled" and suite.name not in self._warned:
            self._warned.add(suite.name)
            log.warning(
                f"{suite.name} runs on prompts of our own in the same style, not on the "
                "official list (README, Prompts, says where it goes); every row is marked "
                "prompt_source=bundled"
            )


@verb("finished videos are kept, the same command continues")
def main(words: Sequence[str] | None = None, own: Path | None = None) -> int:
    """Compose, run, print the tables; exit code 0 for success, 1 if a run failed, 2 for bad input.

    words: options, then settings; None for those of the command line.
    own: the folder given with `--config-dir`.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors itself and exits
    command = Command()
    # Hydra reads the command line itself and takes no words.
    if words is not None:
        sys.argv[1:] = [*(["--config-dir", str(own)] if own is not None else []), *words]
    entry = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(command.job)
    try:
        demand_choices(word for word in sys.argv[1:] if not word.startswith("-"))
        entry()
    except (UserError, *OF_COMPOSING):
        raise
    except Exception as error:  # raised by a launcher; the results of its jobs are shown below
        if sweep.Folder.path is None:
            raise
        print(f"error: the launcher gave up: {first_line(error)}", file=sys.stderr)
        conclude_sweep(sweep.jobs(sweep.Folder.path), command.complained)
        return 1
    if sweep.Folder.path is None:
        code = show(command.jobs)
        # What the user can fix has an exit code of its own, which outranks that of a failed run.
        return USER_ERROR if any(job.cause == "settings" for job in command.jobs) else code
    # Jobs of a sweep may have run in other processes, so their results are read from their records.
    return conclude_sweep(sweep.jobs(sweep.Folder.path), command.complained)


def conclude_sweep(jobs: Sequence[Job], complained: Collection[str] = ()) -> int:
    """Print the results of a sweep; return exit code 1 if any job failed.

    complained: error messages that this process has printed already.
    """
    # The exit code of a sweep is 1 even if all failures are the user's: some jobs may be done.
    code = show(jobs)
    # A dry run has printed its plan, which is a table of its own.
    # If one mistake refused all jobs, it was printed already, and a table would say nothing more.
    ends = {(job.cause, job.reason) for job in jobs}
    refused = len(ends) == 1 and jobs[0].cause == "settings"
    if len(jobs) > 1 and not refused and all(job.state != "dry" for job in jobs):
        sweep.show(jobs)
    # With a single job, the error has already been printed.
    if len(jobs) > 1:
        sweep.show_failures(jobs, complained)
    return code


def show(jobs: Sequence[Job]) -> int:
    """Print the table of the runs that have rows, and the paths of their files.

    Returns exit code 1 if a job failed, 2 if only the wide table could not be written, else 0.
    """
    code = int(any(job.state == "failed" for job in jobs))
    # A dry run has no rows of its own; what it would add is printed in their place.
    if outlooks := [each for job in jobs for each in job.outlooks]:
        from harness.planning.dry_run import Outlook, print_outlooks

        print_outlooks([Outlook.from_json(each) for each in outlooks])
        return code
    # By folder: jobs of a sweep share the run of BF16.
    wanted: dict[Path, set[Key]] = {}
    for job in jobs:
        for folder in map(Path, job.folders):
            if (folder / observations.OBSERVATIONS).exists():
                wanted.setdefault(folder, set()).update(job.videos)
    if not wanted:
        return code
    from harness.results.summary_table import print_section, sections

    selected = []
    rows = all_runs.load_runs(list(wanted))
    # Only the requested videos: a run may have more of them from earlier commands.
    for folder, keys in wanted.items():
        own = rows[rows["run_id"] == run_id_of(folder)]
        mask = [key in keys for key in zip(own["prompt_index"], own["sample"], strict=True)]
        selected.append(own[mask])
    for section in sections([rows for rows in selected if len(rows)]):
        print_section(section)
    # A sweep over `results_dir` fills several folders, each with a wide table of its own.
    roots = dict.fromkeys(Path(job.results_dir) for job in jobs if job.results_dir)
    written = [root for root in roots if _write_wide(root)]
    for path in (*(root / all_runs.WIDE for root in written), *wanted):
        print(path)
    return code or (0 if len(written) == len(roots) else USER_ERROR)


def _write_wide(root: Path) -> bool:
    """Write the wide table of a results folder; return False if the folder is not writable.

    Damage in another run only gives a warning: this command did not cause it.
    """
    try:
        all_runs.write_wide(root)
    except OSError as error:  # of this command's own folder, such as a full disk
        complain(UserError(f"{root / all_runs.WIDE} stays as it was: {sentence(error)}"))
        return False
    except (UserError, ValueError) as error:
        log.warning(
            f"{root / all_runs.WIDE} stays as it was ({sentence(error)}): type "
            f"python -m harness check {root}"
        )
    return True
