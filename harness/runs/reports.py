"""The child's end of the pipe to its parent: reports which video begins and how the child ends."""

from __future__ import annotations

import json
import os

from harness.results.scores import Key
from harness.system.errors import Cause


class Reports:
    """Writes one JSON line per report; `harness.runs.child` reads them."""

    def __init__(self, file: int) -> None:
        # Programs that this process starts must not keep the pipe open after its death.
        os.set_inheritable(file, False)
        self._file = file

    def begins(self, video: Key) -> None:
        """Report that a video begins."""
        self._send({"video": video})

    def ends(self, refusal: str = "") -> None:
        """Report the end: success, or a sentence about what the user has to fix.

        The parent takes an end without this report as a crash.
        """
        self._send({"ends": refusal})

    def dies(self, cause: Cause, reason: str) -> None:
        """Report the error that ends the process."""
        self._send({"cause": cause, "reason": reason})

    def _send(self, report: object) -> None:
        os.write(self._file, f"{json.dumps(report)}\n".encode())
