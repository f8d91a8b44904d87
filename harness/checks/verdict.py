"""Result of one check, and the sentence for what did not hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Verdict:
    """What became of one contract; `note` is why it was broken, or why it says nothing."""

    name: str
    held: bool
    note: str
    seconds: float

    def __str__(self) -> str:
        """A line, with the contract's name where it does not hold."""
        line = f"{'✓' if self.held else '✗'} {self.name:<42} {self.seconds:5.2f} s"
        return f"{line}  {self.note}".rstrip()


def sentence(error: Exception | SystemExit) -> str:
    """What did not hold; where it was raised, if nobody meant it to be."""
    from hydra.errors import InstantiationException

    from harness.config.messages import of_construction
    from harness.system.errors import UserError, first_line, last_frame

    if isinstance(error, SystemExit):
        return f"it ends the process by sys.exit({error.code!r}) ({last_frame(error)})"
    if isinstance(error, InstantiationException):
        return of_construction(error)
    if isinstance(error, (Broken, UserError, ValueError)):
        return " ".join(str(error).split())
    return f"{first_line(error)} ({last_frame(error)})"


class Broken(Exception):
    """A contract that does not hold, and why, in one sentence."""
