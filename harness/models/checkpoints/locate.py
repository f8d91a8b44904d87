"""Where a model's files are: below the data folder, or in the hub's own cache. Nothing downloads.

The hub's client keeps what it fetched in a cache of its own, one folder a repository and revision.
`hf://owner/name/path` names what lies there. A file that the data folder lacks is looked for there
too where the configuration says which repository it is from.
"""

from __future__ import annotations

from pathlib import Path

from harness.system.errors import UserError

SCHEME = "hf://"


def located(root: Path, name: str, source: str | None = None) -> Path:
    """Where `name` is: absolute, below `root`, or in the hub's cache; it may still be missing.

    source: "owner/name path/in/repo", looked for in the cache if there is nothing at the place.
    Raises  UserError: a name with `hf://` that is no repository or is not in the cache.
    """
    if name.startswith(SCHEME):
        return _named(name)
    place = root / name
    if source is not None and not place.exists():
        repository, _, inside = source.partition(" ")
        cached = _snapshot(repository)
        if cached is not None and (cached / inside).exists():
            return cached / inside
    return place


def _named(name: str) -> Path:
    """What an address of the hub names, in its cache."""
    owner, _, rest = name.removeprefix(SCHEME).partition("/")
    repository, _, inside = rest.partition("/")
    if not owner or not repository:
        raise UserError(f"{name} names no repository: give {SCHEME}owner/name/path, or a path")
    found = _snapshot(f"{owner}/{repository}")
    if found is None or not (found / inside).exists():
        what = f"{owner}/{repository} {inside}".strip()
        raise UserError(
            f"the hub's cache does not hold {name}: type `hf download {what}`, or give the path of "
            "what you have"
        )
    return found / inside


def _snapshot(repository: str) -> Path | None:
    """The folder of the newest revision in the cache; None without one, or without the client."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        return None
    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (OSError, ValueError):  # its own errors of what is not there, or of a name, are these
        return None
