"""Shows progress and time left of a stage: a bar on a terminal, one line per video elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from harness.system.errors import first_line, last_frame


class Shown:
    """A progress bar, shown on a terminal inside a `with` block; `say` prints lines above it."""

    def __init__(self, *columns: ProgressColumn) -> None:
        """Set the columns that follow the task's description and the bar."""
        # On standard error, since standard output is the table that users redirect.
        self._console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            *columns,
            console=self._console,
            disable=not sys.stderr.isatty(),  # a log file gets lines instead, by `say`
            refresh_per_second=4,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        # Without markup: a prompt in brackets is no colour of rich's.
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class Progress(Shown):
    """Counts ticks (passes of the network, or videos) and estimates the time left."""

    def __init__(self, name: str, num_videos: int, ticks_per_video: int) -> None:
        """Start the clock. name: beginning of every line."""
        remaining = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        super().__init__(TextColumn("{task.fields[videos]}"), *remaining)
        self._name = name
        self._num_videos = num_videos
        self._done = 0
        self._start = time.perf_counter()
        total = num_videos * ticks_per_video
        self._task = self._bar.add_task(name, total=total, videos=f"0/{num_videos} videos")

    def tick(self) -> None:
        """Count one tick."""
        self._bar.advance(self._task)

    def finished(self) -> None:
        """Count a finished video; without a terminal, print a line."""
        self._done += 1
        self._bar.update(self._task, videos=f"{self._done}/{self._num_videos} videos")
        # By finished videos, since rich's own estimate stands in the bar only.
        if self._bar.disable:
            spent = time.perf_counter() - self._start
            left = spent / self._done * (self._num_videos - self._done)
            done = f"{self._done}/{self._num_videos} videos"
            self.say(f"{self._name}: {done}, {spent:.0f} s, {left:.0f} s left")

    def failed(self, label: str, error: Exception) -> None:
        """Count a video that could not be made and print why; label: which video it was."""
        self._done += 1
        said = f"{first_line(error)} ({last_frame(error)})"
        self.say(f"{self._name}: {label} failed: {said}")
