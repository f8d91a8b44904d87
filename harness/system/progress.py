"""Progress of a stage with the time left: a bar on a terminal, a line a video elsewhere."""

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
    """A bar on a terminal while it is entered; `say` leaves lines above it, or without it."""

    def __init__(self, *columns: ProgressColumn) -> None:
        """columns: after the task's description and its bar."""
        self._console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            *columns,
            console=self._console,
            disable=not sys.stderr.isatty(),
            refresh_per_second=4,
        )

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take the bar down."""
        self._bar.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class Progress(Shown):
    """Counts network passes (or videos, where a video is one tick) and says what is left."""

    def __init__(self, name: str, num_videos: int, ticks_per_video: int) -> None:
        """`name` is what the line begins with."""
        remaining = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        super().__init__(TextColumn("{task.fields[videos]}"), *remaining)
        self._name = name
        self._num_videos = num_videos
        self._done = 0
        self._start = time.perf_counter()
        total = num_videos * ticks_per_video
        self._task = self._bar.add_task(name, total=total, videos=f"0/{num_videos} videos")

    def tick(self) -> None:
        """One unit of work is done."""
        self._bar.advance(self._task)

    def finished(self) -> None:
        """Count a video that is done."""
        self._done += 1
        self._bar.update(self._task, videos=f"{self._done}/{self._num_videos} videos")
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
