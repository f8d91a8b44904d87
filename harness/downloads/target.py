"""The file that a download should produce, and the part of it received so far."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.system.files import write_json


@dataclass(frozen=True)
class Target:
    """A file to download to `path`, from the first of `urls` that has it.

    start: beginning of its SHA-256, or all of it; empty accepts any file of the right size.
    said: the expectation in words, for messages.
    bytes: size of the file; None if unknown.
    member: path inside a zip, if the addresses give a zip; else None.
    """

    path: Path
    urls: tuple[str, ...]
    start: str
    said: str
    bytes: int | None = None
    member: str | None = None

    @property
    def part(self) -> Path:
        """Path of the part file, which holds the bytes received so far."""
        # Beside the target, on the same disk, so that moving it into place copies nothing.
        return self.path.with_name(f"{self.path.name}{'.zip' if self.member else ''}.part")

    @property
    def came(self) -> int:
        """Size of the part file in bytes; 0 if there is none."""
        return self.part.stat().st_size if self.part.is_file() else 0


@dataclass(frozen=True)
class Note:
    """The origin of a part file: address, version and total size; stored next to the part."""

    url: str
    tag: str
    total: int | None

    @classmethod
    def of(cls, part: Path) -> Note | None:
        """Read the note of a part; None if it is missing or damaged."""
        # Nobody knows then which version of the file the part is of, so it is downloaded again.
        with suppress(OSError, ValueError, TypeError):
            return cls(**json.loads(_note(part).read_text()))
        return None

    def write(self, part: Path) -> None:
        """Write the note next to a part."""
        # Not durable: without its note a part is only downloaded again.
        write_json(_note(part), vars(self), durable=False)


def forget(part: Path) -> None:
    """Remove a part and its note."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")
