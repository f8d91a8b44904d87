"""What a download is to bring, and what has come of it so far."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.system.files import write_json


@dataclass(frozen=True)
class Target:
    """What is to lie at `path`: from the first of `urls` that gives it.

    start: what its SHA-256 begins with, in words `said`; empty takes any file of the right size.
    member: the path inside a zip at the addresses.
    """

    path: Path
    urls: tuple[str, ...]
    start: str
    said: str
    bytes: int | None = None
    member: str | None = None

    @property
    def part(self) -> Path:
        """Where what has come lies until all of it is there."""
        return self.path.with_name(f"{self.path.name}{'.zip' if self.member else ''}.part")

    @property
    def came(self) -> int:
        """Bytes that an earlier try has left."""
        return self.part.stat().st_size if self.part.is_file() else 0


@dataclass(frozen=True)
class Note:
    """What a part is a part of; it lies beside the part."""

    url: str
    tag: str
    total: int | None

    @classmethod
    def of(cls, part: Path) -> Note | None:
        """What stands beside a part, if that can be read."""
        with suppress(OSError, ValueError, TypeError):
            return cls(**json.loads(_note(part).read_text()))
        return None

    def write(self, part: Path) -> None:
        """Put it beside a part."""
        write_json(_note(part), vars(self), durable=False)


def forget(part: Path) -> None:
    """Remove a part and what stands beside it."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")
