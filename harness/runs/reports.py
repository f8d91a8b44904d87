"""The child's side of the pipe to its parent: what it works on, and what it dies of."""

from __future__ import annotations

import json
import os

from harness.results.scores import Key
from harness.system.errors import Cause


class Reports:
    """Writes a line a report; `harness.runs.child` reads them."""

    def __init__(self, file: int) -> None:
        """Take the pipe's open file; programs that this process starts do not get it."""
        os.set_inheritable(file, False)
        self._file = file

    def begins(self, video: Key) -> None:
        """This video is in work now."""
        self._send({"video": video})

    def ends(self, refusal: str = "") -> None:
        """All is done, or this is for the user to mend; an end without this word is a crash."""
        self._send({"ends": refusal})

    def dies(self, cause: Cause, reason: str) -> None:
        """The last words."""
        self._send({"cause": cause, "reason": reason})

    def _send(self, report: object) -> None:
        os.write(self._file, f"{json.dumps(report)}\n".encode())
