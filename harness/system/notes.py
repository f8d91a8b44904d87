"""Notes in the user's cache folder: results that take seconds to compute and are often needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from harness.system.files import write_json
from harness.system.paths import CACHE
from harness.system.version import code_version, package_version

FOLDER = CACHE / "notes"


def noted(
    kind: str, asked: Sequence[Any], compute: Callable[[], Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Return the result that an earlier process noted for the same question, else compute it.

    If the note cannot be written, each process computes the result.

    kind: name of the notes' folder. asked: JSON of all that the result depends on, apart from the
    versions of this code, torch and diffusers, which are added here.
    """
    versions = [code_version(), *map(package_version, ("torch", "diffusers"))]
    # A note of another version is simply not found: its name is a digest of all that was asked.
    question = json.dumps([*asked, versions], sort_keys=True)
    note = FOLDER / kind / f"{hashlib.sha256(question.encode()).hexdigest()[:16]}.json"
    with suppress(OSError, ValueError):  # missing, damaged
        known = json.loads(note.read_text())
        if isinstance(known, dict):
            return known
    found = compute()
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        write_json(note, dict(found), durable=False)
    return found
