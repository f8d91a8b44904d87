"""Versions of the harness (commit, with a digest of changed sources) and of packages."""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
from functools import cache
from typing import Any

from harness.system.paths import ROOT

SOURCES = ("harness", "methods")  # the packages that decide the values of a row


@cache
def code_version() -> str:
    """Return the version of the harness: its commit, a digest of the sources, or both.

    `1a2b3c4d` in a clean checkout, `1a2b3c4d+9f8e7d6c` in a changed one, `9f8e7d6c` outside.
    """
    # The digest reads every source, so it is taken only where the commit does not say enough.
    state = git_state()
    commit = str(state["commit"] or "")[:8]
    if commit and not state["dirty"]:
        return commit
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            # With its name: a file that only moves can change what runs, too.
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return "+".join(filter(None, (commit, digest.hexdigest()[:8])))


def git_state() -> dict[str, Any]:
    """Return the commit and whether sources were changed; None for both outside a checkout."""
    try:
        # An installed package may lie inside another project's repository (`project/.venv/...`).
        _git("ls-files", "--error-unmatch", "--", "harness/system/version.py")
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--", *SOURCES))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


@cache
def package_version(package: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*words: str) -> str:
    # With a limit: if git hangs, rows lack the commit, but the run goes on.
    command = ["git", "-C", str(ROOT), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
