"""The result of one contract, and the message if it does not hold."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Verdict:
    """The result of one contract.

    note: why it does not hold, why it does not apply, or a detail; may be empty.
    """

    name: str
    held: bool
    note: str
    seconds: float

    def __str__(self) -> str:
        """Return one line: mark, name, seconds and note."""
        line = f"{'✓' if self.held else '✗'} {self.name:<42} {self.seconds:5.2f} s"
        return f"{line}  {self.note}".rstrip()


def verdict(
    contract: Callable[[Subject], str | None], subject: Subject, begins: Callable[[str], None]
) -> Verdict:
    """Examine one contract and return its verdict.

    begins: called with the name of the contract before it starts.
    """
    name = contract.__name__.replace("_", " ")
    begins(name)
    start = time.perf_counter()
    # A user's class that calls sys.exit breaks its contract; Ctrl-C still ends the check.
    try:
        note, held = contract(subject) or "", True
    except (Exception, SystemExit) as error:  # noqa: BLE001  a user's class may raise anything
        note, held = sentence(error), False
    return Verdict(name, held, note, time.perf_counter() - start)


def sentence(error: Exception | SystemExit) -> str:
    """Return the message for a broken contract; an unexpected error gets file and line."""
    from hydra.errors import InstantiationException

    from harness.config.messages import construction_message
    from harness.system.errors import UserError, first_line, last_frame

    if isinstance(error, SystemExit):
        return f"it ends the process by sys.exit({error.code!r}) ({last_frame(error)})"
    # Hydra wraps what a constructor raised: print the constructor's own message.
    if isinstance(error, InstantiationException):
        return construction_message(error)
    # These were written for a reader; any other error is a defect, which file and line locate.
    if isinstance(error, (Broken, UserError, ValueError)):
        return " ".join(str(error).split())
    return f"{first_line(error)} ({last_frame(error)})"


class Broken(Exception):
    """A contract does not hold; the message says why in one sentence."""
