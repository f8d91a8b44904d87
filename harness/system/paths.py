"""Paths of the files that are part of the package, and of the user's cache; all modules use these.

In a wheel, `conf` lies inside the package (`setup.py` puts it there). In a checkout, which an
editable install and `python -m harness` use, it lies next to the package.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path


def shipped(package: str, *names: str) -> Path:
    """Return the path of a file or folder inside a package; `package` is its dotted name."""
    # Resolved, so that paths compare, also if the checkout lies behind a link.
    return Path(str(files(package).joinpath(*names))).resolve()


ROOT = shipped("harness").parent  # holds harness, methods and analysis: a checkout or site-packages
# Whatever is here can be made or downloaded again.
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "video-kv-bench"
CONF = ROOT / "harness" / "conf" if (ROOT / "harness" / "conf").is_dir() else ROOT / "conf"


def checkout() -> Path | None:
    """Return the root of the source tree that runs; None for an installed wheel."""
    return ROOT if (ROOT / "pyproject.toml").is_file() and (ROOT / "conf").is_dir() else None


def from_home(path: Path) -> str:
    """Return a path as text that starts with ~ if it lies in the user's home."""
    # Reasons for missing scores go into reports, which need not show who made them.
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
