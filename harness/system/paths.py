"""Where the files that ship with the package are; every other module asks here.

In a wheel, `conf` lies inside the package (`setup.py` puts it there). In a checkout, which an
editable install and `python -m harness` use, it lies beside the package.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def shipped(package: str, *names: str) -> Path:
    """Path of a file or folder that ships inside a package, for example `harness.commands.plan`."""
    return Path(str(files(package).joinpath(*names))).resolve()


ROOT = shipped("harness").parent  # holds harness, methods and analysis: a checkout or site-packages
CONF = ROOT / "harness" / "conf" if (ROOT / "harness" / "conf").is_dir() else ROOT / "conf"


def checkout() -> Path | None:
    """Root of the source tree that this package runs from; None if a wheel was installed."""
    return ROOT if (ROOT / "pyproject.toml").is_file() and (ROOT / "conf").is_dir() else None
