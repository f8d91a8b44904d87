"""What was found in a run's folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

State = Literal["complete", "unfinished", "problem"]


@dataclass(frozen=True)
class Finding:
    """What is wrong, what to type, and whether it is only not finished."""

    what: str
    mend: str
    unfinished: bool = False

    def __str__(self) -> str:
        """A line without its folder."""
        return f"{self.what}; type {self.mend} to mend it"


@dataclass
class Report:
    """What was found in a folder, and who made the rows in it."""

    folder: Path
    findings: list[Finding] = field(default_factory=list)
    run_ids: set[str] = field(default_factory=set)
    devices: Counter[str] = field(default_factory=Counter)
    code_versions: Counter[str] = field(default_factory=Counter)

    @property
    def state(self) -> State:
        """The worst of what was found."""
        if not self.findings:
            return "complete"
        return "unfinished" if all(each.unfinished for each in self.findings) else "problem"
