"""Records of a sweep's jobs, one file per job, and the tables printed at its end.

Files, because launchers run jobs in processes of their own.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from harness.results.scores import Key
from harness.system.errors import retry
from harness.system.files import write_json
from harness.system.text_table import Grid

WIDTH = 60  # characters shown of a sentence that was printed before
State = Literal["running", "done", "resumed", "skipped", "failed", "dry"]
ENDS: tuple[State, ...] = ("done", "resumed", "skipped", "failed")  # in the order of the title


@dataclass(frozen=True)
class Job:
    """One job of a command, and its result.

    number: position in the sweep, from 0.
    name: suite, model and folder of the run, or the settings as typed if they give no run.
    made, total: videos made, and requested. seconds: duration of the job.
    cause, reason: of a failure; the cause is `settings` if the user can fix it.
    folders: of the run and of its reference. videos: keys of the requested videos.
    outlooks: the results of a dry run.
    """

    number: int
    name: str
    state: State = "running"
    made: int = 0
    total: int = 0
    seconds: float = 0.0
    cause: str | None = None
    reason: str | None = None
    folders: tuple[str, ...] = ()
    videos: tuple[Key, ...] = ()
    results_dir: str = ""
    outlooks: tuple[dict[str, Any], ...] = ()

    @classmethod
    def begun(cls) -> Job:
        """Return the job that Hydra runs in this process, before its settings are resolved."""
        config = HydraConfig.get()
        # Hydra numbers the jobs of a sweep only; the field is missing in a single run.
        number = config.job.num if config.mode == RunMode.MULTIRUN else 0
        # The words as typed: an interpolation that cannot be resolved must not hide its job.
        words: Any = OmegaConf.to_container(config.overrides.task, resolve=False)
        return cls(number, " ".join(map(str, words)) or "defaults")

    def record(self) -> Job:
        """Write the job to disk for the command that started the sweep; return the job."""
        config = HydraConfig.get()
        # A single job runs in the command's own process, which keeps it in memory.
        if config.mode == RunMode.MULTIRUN:
            folder = Path(config.sweep.dir)
            folder.mkdir(parents=True, exist_ok=True)
            # Not durable: a lost record loses a line of the table at the end, and no result.
            write_json(folder / f"job-{self.number:05d}.json", asdict(self), durable=False)
        return self


class Folder(Callback):
    """Hydra callback: tells the launching process where jobs write their records."""

    # Of the class, because Hydra builds the callback itself and gives nobody the object. None:
    # this command is no sweep.
    path: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Store the folder of the sweep."""
        Folder.path = Path(config.hydra.sweep.dir)


def jobs(folder: Path) -> list[Job]:
    """Return all jobs of a sweep that have begun, in order.

    A job that is still `running` counts as failed: its process died.
    """
    found = []
    for path in sorted(folder.glob("job-*.json")):
        content = json.loads(path.read_text())
        videos = tuple((index, sample) for index, sample in content.pop("videos"))
        folders, outlooks = tuple(content.pop("folders")), tuple(content.pop("outlooks"))
        job = Job(**content, videos=videos, folders=folders, outlooks=outlooks)
        if job.state == "running":
            reason = "its process ended without a word; the same command continues"
            job = replace(job, state="failed", cause="killed", reason=reason)
        found.append(job)
    return found


def show(jobs: Sequence[Job]) -> None:
    """Print the table at the end of a sweep."""
    counts = {state: sum(job.state == state for job in jobs) for state in ENDS}
    title = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    body = [
        [job.name, job.state, f"{job.made}/{job.total}", f"{job.seconds / 60:.1f}"] for job in jobs
    ]
    Grid(f"{len(jobs)} jobs: {title}", ["run", "state", "videos", "min"], body).show()


def show_failures(jobs: Sequence[Job], complained: Collection[str] = ()) -> None:
    """Print why jobs failed and what to type next; a reason shared by jobs is printed once.

    complained: sentences that were printed before; a shared reason among them is shortened.
    """
    failed = [job for job in jobs if job.state == "failed"]
    # One mistake in a setting fails all jobs of a sweep; its sentence is printed once.
    sharing: dict[tuple[str, str], list[Job]] = {}
    for job in failed:
        sharing.setdefault((str(job.cause), str(job.reason)), []).append(job)
    for (cause, reason), several in sharing.items():
        who = several[0].name if len(several) == 1 else f"{len(several)} of {len(jobs)} jobs"
        if len(several) > 1 and reason in complained:
            reason = textwrap.shorten(reason, WIDTH, placeholder=" ... (see above)")
        print(f"failed  {who}  {cause}: {reason}", file=sys.stderr)
    # Some causes are tried again only on request; `retry` knows the word for it.
    again = retry({str(job.cause) for job in failed})
    if again is not None:
        more = f" with {again}" if again else ""
        print(f"next    type the same command{more}", file=sys.stderr)
