"""Progress of a stage with the time left: a bar on a terminal, a line a video elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from harness.errors import first_line, last_frame
from harness.run import Item


class Progress:
    """Counts network passes (or videos, where a video is one tick) and says what is left."""

    def __init__(self, name: str, num_videos: int, ticks_per_video: int) -> None:
        """`name` is what the line begins with."""
        self._name = name
        self._num_videos = num_videos
        self._done = 0
        self._start = time.perf_counter()
        self._console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[videos]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not sys.stderr.isatty(),
            refresh_per_second=4,
        )
        total = num_videos * ticks_per_video
        self._task = self._bar.add_task(name, total=total, videos=f"0/{num_videos} videos")

    def __enter__(self) -> Progress:
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

    def tick(self) -> None:
        """One unit of work is done."""
        self._bar.advance(self._task)

    def finished(self, item: Item) -> None:
        """A video is done."""
        self._done += 1
        self._bar.update(self._task, videos=f"{self._done}/{self._num_videos} videos")
        if self._bar.disable:
            spent = time.perf_counter() - self._start
            left = spent / self._done * (self._num_videos - self._done)
            self._say(f"{self._done}/{self._num_videos} videos, {spent:.0f} s, {left:.0f} s left")

    def failed(self, item: Item, error: Exception) -> None:
        """A video could not be made."""
        self._done += 1
        place = last_frame(error)
        self._say(f"prompt {item.prompt.index} failed: {first_line(error)} ({place})")

    def _say(self, text: str) -> None:
        self._console.print(f"{self._name}: {text}", highlight=False, soft_wrap=True)
