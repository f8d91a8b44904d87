"""What a download has done: a bar with rate and time left on a terminal, lines elsewhere."""

from __future__ import annotations

import time

from rich.progress import TextColumn

from harness.system.progress import Shown
from harness.system.units import size

LINE_S = 10.0  # between two lines where there is no terminal


class Bar(Shown):
    """Follows one file after another; the rate is that of the bytes that came while it looked."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        super().__init__(TextColumn("{task.fields[said]}"))
        self._name = ""

    def begin(self, name: str) -> None:
        """The next file."""
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._name = name
        self._task = self._bar.add_task(name, total=None, said="")
        self._start: tuple[float, int] | None = None
        self._next_line = 0.0

    def came(self, nbytes: int, total: int | None) -> None:
        """So many bytes of the file are there."""
        now = time.monotonic()
        if self._start is None or nbytes < self._start[1]:  # it begins again
            self._start = (now, nbytes)
            self._next_line = now + LINE_S
        said = progress(nbytes, total, nbytes - self._start[1], now - self._start[0])
        self._bar.update(self._task, completed=nbytes, total=total, said=said)
        if self._bar.disable and now >= self._next_line:
            self._next_line = now + LINE_S
            self.say(f"{self._name}: {said}")


def progress(nbytes: int, total: int | None, new: int, seconds: float) -> str:
    """Words about a download of which `new` bytes came in so many seconds."""
    said = f"{size(nbytes)} of {size(total)}"
    if seconds < 0.5 or not new:
        return said
    rate = new / seconds
    left = "" if total is None else f", {(total - nbytes) / rate:.0f} s left"
    return f"{said}, {size(rate)}/s{left}"
