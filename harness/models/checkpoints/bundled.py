"""Finds the weights that ship with the package and verifies their checksum."""

from __future__ import annotations

import hashlib
from pathlib import Path

from harness.system.errors import UserError
from harness.system.paths import shipped

FOLDER = shipped("harness.models", "small")


def bundled(name: str, sha256: str) -> Path:
    """Return the path of a file in `harness/models/small/`, after verifying its checksum.

    Units   sha256 is 64 hexadecimal digits.
    Raises  UserError: the file is missing, or its checksum differs from `sha256`.
    """
    path = FOLDER / name
    fix = f"type `git checkout -- {path}` or install the package again"
    if not path.is_file():
        raise UserError(f"found no weights at {path} (expected SHA-256 {sha256}): {fix}")
    # Small enough to be read and hashed in every call, so no note of the digest can be stale.
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UserError(
            f"the weights at {path} ({len(content)} bytes) have SHA-256 {found}, "
            f"expected {sha256}: {fix}"
        )
    return path
