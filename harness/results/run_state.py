"""The state of a run's videos, read once from its files."""

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
    """A snapshot of a run's observations; read a new one after rows have been written.

    videos: the `COLUMNS` of each video that has a row, in the order of videos.
    """

    folder: Path
    videos: Mapping[Key, Row]

    @classmethod
    def read(cls, folder: Path) -> RunState:
        """Read the observations of a run; no videos if the file does not exist yet.

        Raises  UserError: they cannot be read.
        """
        rows = observations.observations(folder, *COLUMNS)
        return cls(folder, {scores.key(row): row for row in rows})

    # Cached, since the rows of a snapshot never change.
    @cached_property
    def made(self) -> dict[Key, str | None]:
        """Digests of the frames of all videos that were generated without failure."""
        return {
            key: row["frames_sha256"] for key, row in self.videos.items() if row["failure"] is None
        }

    @property
    def code_versions(self) -> list[str]:
        """The versions of the harness that made the videos, sorted."""
        return sorted({x for row in self.videos.values() if (x := row["code_version"])})

    @property
    def weights(self) -> list[str]:
        """The weight files, with checksums, that the videos were made from, sorted."""
        return sorted({x for row in self.videos.values() if (x := row["weights"])})

    def missing(self, run: Run) -> list[Item]:
        """Return the videos to generate: without a row, failed and to retry, or without frames.

        run: the current request of this folder.
        """
        found = []
        for item in run.items:
            row = self.videos.get(item.key)
            if row is None:
                missing = True
            elif row["failure"] is not None:
                missing = run.execution.retries(row["failure"])
            else:
                # Messages about damaged frames tell users to remove them; the row stays.
                missing = frames_file(run.video(item)) is None
            if missing:
                found.append(item)
        return found

    def failed(self, run: Run) -> dict[Key, str]:
        """Return the cause of failure of each requested video that failed, in order."""
        # Videos of earlier requests do not count: this command did not ask for them.
        asked = {item.key for item in run.items}
        return {
            key: row["failure"]
            for key, row in self.videos.items()
            if row["failure"] and key in asked
        }

    def failure(self, run: Run) -> RunFailed | None:
        """Return the first failed video as an error that counts all; None if none failed."""
        # One error for the whole run: its first failure, with the number of all.
        failed = self.failed(run)
        if not failed:
            return None
        first = next(iter(failed))
        row = self.videos[first]
        reason = f"{len(failed)} of {len(run.items)} videos failed, prompt {first[0]} by: "
        return RunFailed(row["failure"], reason + str(row["failure_reason"]), first)

    def unscored(self, run: Run) -> RunFailed | None:
        """Return an error for the first video whose frames scoring could not read, else None.

        Raises  UserError: the scores cannot be read.
        """
        # Not part of the snapshot: scores are written after the state was read.
        asked = {item.key for item in run.items}
        for key, row in scores.rows(self.folder).items():
            if row["frames_sha256"] is None and key in asked:
                tried = [name.removesuffix("_version") for name, value in row.items()
                         if name.endswith("_version") and value]  # fmt: skip
                reasons = [row[f"{name}_reason"] for name in tried if f"{name}_reason" in row]
                return RunFailed("error", f"prompt {key[0]} has no scores: {reasons[0]}", key)
        return None
