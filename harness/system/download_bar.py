"""Shows the progress of downloads: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time

from rich.progress import TextColumn

from harness.system.progress import Shown
from harness.system.units import size

LINE_S = 10.0  # between two lines, without a terminal


class Bar(Shown):
    """Progress of one file after another, with rate and time left.

    The rate counts only bytes received by this process, not those of an earlier attempt.
    """

    def __init__(self) -> None:
        super().__init__(TextColumn("{task.fields[said]}"))
        self._name = ""

    def begin(self, name: str) -> None:
        """Start the next file."""
        # One bar at a time: files come one after another, and finished bars would pile up.
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._name = name
        self._task = self._bar.add_task(name, total=None, said="")
        self._start: tuple[float, int] | None = None
        self._next_line = 0.0

    def came(self, nbytes: int, total: int | None) -> None:
        """Show that `nbytes` of the file have been received, of `total` if known."""
        # The first report of a resumed file already has the bytes of the earlier attempt.
        now = time.monotonic()
        if self._start is None or nbytes < self._start[1]:  # the download started over
            self._start = (now, nbytes)
            self._next_line = now + LINE_S
        said = progress(nbytes, total, nbytes - self._start[1], now - self._start[0])
        self._bar.update(self._task, completed=nbytes, total=total, said=said)
        # Without a terminal there is no bar, so that a log file gets a line now and then.
        if self._bar.disable and now >= self._next_line:
            self._next_line = now + LINE_S
            self.say(f"{self._name}: {said}")


def progress(nbytes: int, total: int | None, new: int, seconds: float) -> str:
    """Return size, rate and time left as text; `new` bytes came within `seconds`."""
    said = f"{size(nbytes)} of {size(total)}"
    # A rate over the first moments would jump.
    if seconds < 0.5 or not new:
        return said
    rate = new / seconds
    left = "" if total is None else f", {(total - nbytes) / rate:.0f} s left"
    return f"{said}, {size(rate)}/s{left}"
