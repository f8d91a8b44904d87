"""What the files of a run say of its videos, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.results import observations, scores
from harness.results.run import Item, Run
from harness.results.scores import Key, Row
from harness.results.video_files import frames_file
from harness.system.errors import RunFailed

COLUMNS = ("prompt_index", "sample", "failure", "failure_reason", "frames_sha256",
           "code_version", "weights")  # fmt: skip


@dataclass(frozen=True)
class RunState:
    """A look at a run's folder; what is written there afterwards needs another one.

    videos: those that have a row, with its `COLUMNS`, in the order of videos.
    """

    folder: Path
    videos: Mapping[Key, Row]

    @classmethod
    def read(cls, folder: Path) -> RunState:
        """Read the observations of a run; there are none where nothing was tried yet.

        Raises  UserError: they cannot be read.
        """
        rows = observations.observations(folder, *COLUMNS)
        return cls(folder, {scores.key(row): row for row in rows})

    @cached_property
    def made(self) -> dict[Key, str | None]:
        """Videos that were generated without failure, with the digests of their frames."""
        return {
            key: row["frames_sha256"] for key, row in self.videos.items() if row["failure"] is None
        }

    @property
    def code_versions(self) -> list[str]:
        """The versions of the code that made the videos."""
        return sorted({x for row in self.videos.values() if (x := row["code_version"])})

    @property
    def weights(self) -> list[str]:
        """What the videos were made from: files and their checksums."""
        return sorted({x for row in self.videos.values() if (x := row["weights"])})

    def missing(self, run: Run) -> list[Item]:
        """Videos to make: without a row, with a failed one to try again, or without frames.

        run: the run of this folder, as it is asked for now.
        """

        def is_missing(item: Item) -> bool:
            row = self.videos.get(item.key)
            if row is None:
                return True
            if row["failure"] is not None:
                return run.execution.retries(row["failure"])
            return frames_file(run.video(item)) is None

        return [item for item in run.items if is_missing(item)]

    def failed(self, run: Run) -> dict[Key, str]:
        """Videos asked for that could not be made, and what of, in the order of videos."""
        asked = {item.key for item in run.items}
        return {
            key: row["failure"]
            for key, row in self.videos.items()
            if row["failure"] and key in asked
        }

    def failure(self, run: Run) -> RunFailed | None:
        """The first of the videos that failed, with how many did."""
        failed = self.failed(run)
        for key, cause in failed.items():
            reason = f"{len(failed)} of {len(run.items)} videos failed, prompt {key[0]} by: "
            return RunFailed(cause, reason + str(self.videos[key]["failure_reason"]), key)  # type: ignore[arg-type]
        return None

    def unscored(self, run: Run) -> RunFailed | None:
        """The first of the videos that have no scores because they cannot be read.

        Scores are read here and now, since scoring comes after all that a state is made for.
        Raises  UserError: they cannot be read.
        """
        asked = {item.key for item in run.items}
        for key, row in scores.rows(self.folder).items():
            if row["frames_sha256"] is None and key in asked:
                tried = [name.removesuffix("_version") for name, value in row.items()
                         if name.endswith("_version") and value]  # fmt: skip
                reasons = [row[f"{name}_reason"] for name in tried if f"{name}_reason" in row]
                return RunFailed("error", f"prompt {key[0]} has no scores: {reasons[0]}", key)
        return None
