"""Notes in the user's cache folder: results that take seconds to compute and are often needed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.system.files import whole_file
from harness.system.paths import CACHE
from harness.system.version import code_version, package_version

FOLDER = CACHE / "notes"


def noted(
    kind: str, asked: Sequence[Any], compute: Callable[[], Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Return the result that an earlier process noted for the same question, else compute it.

    kind, asked: as in `recall`.
    """
    known = recall(kind, asked)
    if known is not None:
        return known
    found = compute()
    note(kind, asked, found)
    return found


def recall(kind: str, asked: Sequence[Any]) -> Mapping[str, Any] | None:
    """Return what an earlier process noted for the same question; None if nothing.

    kind: name of the notes' folder. asked: JSON of all that the result depends on, apart from the
    versions of this code, torch and diffusers, which are added here.
    """
    with suppress(OSError, ValueError):  # missing, damaged
        known = json.loads(_file(kind, asked).read_text())
        if isinstance(known, dict):
            return known
    return None


def note(kind: str, asked: Sequence[Any], found: Mapping[str, Any]) -> None:
    """Note the answer to a question, as JSON; `kind` and `asked` as in `recall`.

    If it cannot be written, each process computes it.
    """
    file = _file(kind, asked)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file, durable=False) as unfinished:
            unfinished.write_text(json.dumps(found))  # in its own order, in which it is printed


def only_ours(settings: Any) -> bool:
    """Return whether the code version, which every note depends on, covers all classes named."""
    return not re.search(r'"_target_": "(?!harness\.|methods\.)', json.dumps(settings))


def _file(kind: str, asked: Sequence[Any]) -> Path:
    """Return where the note of a question is, whether or not it is there."""
    # A note of another version is simply not found: its name is a digest of all that was asked.
    versions = [code_version(), *map(package_version, ("torch", "diffusers"))]
    question = json.dumps([*asked, versions], sort_keys=True)
    return FOLDER / kind / f"{hashlib.sha256(question.encode()).hexdigest()[:16]}.json"
