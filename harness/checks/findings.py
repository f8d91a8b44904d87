"""Findings of checking a run's folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

State = Literal["complete", "unfinished", "problem"]


@dataclass(frozen=True)
class Finding:
    """One problem: what is wrong, the command that fixes it, and whether it is only unfinished."""

    what: str
    mend: str
    unfinished: bool = False

    def __str__(self) -> str:
        return f"{self.what}; type {self.mend} to mend it"


@dataclass
class Report:
    """All findings of a folder; counts its rows by device and by version of the code."""

    folder: Path
    findings: list[Finding] = field(default_factory=list)
    run_ids: set[str] = field(default_factory=set)
    devices: Counter[str] = field(default_factory=Counter)
    code_versions: Counter[str] = field(default_factory=Counter)

    @property
    def state(self) -> State:
        """The worst state among the findings."""
        if not self.findings:
            return "complete"
        return "unfinished" if all(each.unfinished for each in self.findings) else "problem"
