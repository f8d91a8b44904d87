"""Finds a model's files below the data folder or in the hub's cache, without downloading.

The hub's client stores downloads in its own cache, one folder per repository and revision.
`hf://owner/name/path` names a file there. If the data folder lacks a file and the configuration
names its repository, the cache is searched too.
"""

from __future__ import annotations

from pathlib import Path

from harness.system.errors import UserError

SCHEME = "hf://"


def located(root: Path, name: str, source: str | None = None) -> Path:
    """Return the path of `name`: absolute, below `root`, or in the hub's cache.

    The path may not exist, unless `name` begins with `hf://`.

    source: "owner/name path/in/repo", searched in the cache if the path does not exist.
    Raises  UserError: an `hf://` name that names no repository or is not in the cache.
    """
    if name.startswith(SCHEME):
        owner, _, rest = name.removeprefix(SCHEME).partition("/")
        repository, _, inside = rest.partition("/")
        if not owner or not repository:
            raise UserError(f"{name} names no repository: give {SCHEME}owner/name/path, or a path")
        cached = _snapshot(f"{owner}/{repository}")
        if cached is None or not (cached / inside).exists():
            what = f"{owner}/{repository} {inside}".strip()
            raise UserError(
                f"the hub's cache does not hold {name}: type `hf download {what}`, or give the "
                "path of what you have"
            )
        return cached / inside
    place = root / name  # an absolute name replaces the root
    # The data folder comes first: a file that was put there by hand is meant.
    if source is not None and not place.exists():
        repository, _, inside = source.partition(" ")
        cached = _snapshot(repository)
        if cached is not None and (cached / inside).exists():
            return cached / inside
    return place


def _snapshot(repository: str) -> Path | None:
    """Return the cached folder of the newest revision; None without one or without the client."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        return None
    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (OSError, ValueError):  # the client's errors for missing files and invalid names
        return None
