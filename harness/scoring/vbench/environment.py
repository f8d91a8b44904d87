"""Finds the interpreter of VBench's environment and the packages installed there."""

from __future__ import annotations

import functools
import json
import os
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.scoring.vbench.dimensions import DETECTRON2, DIMENSIONS, VERSION
from harness.system.paths import checkout

PYTHON = ".venv-vbench/bin/python"  # in the checkout; `make vbench` creates it
PATIENCE_S = 60
# Runs under the other interpreter, which has none of our packages.
_ASK = """
import json, sys
from importlib import metadata
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def interpreter(configured: str | None) -> Path:
    """Return the interpreter with vbench: the configured one, or that of the checkout or folder."""
    # Do not resolve links: a virtual environment's interpreter must be called by its own name.
    usual = (checkout() or Path.cwd()) / PYTHON
    return Path(os.path.abspath(Path(configured or usual).expanduser()))


def missing(python: Path, packages: Iterable[str] = ()) -> str | None:
    """Return why this interpreter cannot run VBench with these packages, or None if it can."""
    make = "type make vbench, or " if checkout() else ""  # a wheel brings no Makefile
    fix = f"{make}set HARNESS_VBENCH_PYTHON to a Python that has it"
    if not python.is_file():
        return f"VBench needs an environment of its own and {python} does not exist: {fix}"
    try:
        found = versions(python)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return f"{python} does not run as a Python interpreter ({error}): {fix}"
    if (version := found.get("vbench")) != VERSION:
        have = f"vbench {version}" if version else "no vbench"
        return f"{python} has {have}, and vbench {VERSION} is needed: {fix}"
    for package in packages:
        if package == DETECTRON2 and package not in found:
            return (
                f"{python} has no detectron2, which no package index offers: type {python} -m pip "
                "install --no-build-isolation <a clone of github.com/facebookresearch/detectron2>"
            )
        if package not in found:
            return f"{python} has no {package}: {fix}"
    return None


def said(python: Path, packages: Iterable[str]) -> str:
    """Return the versions of vbench and these packages as text; "not found" for missing ones."""
    try:
        found = versions(python)
    except (OSError, ValueError, subprocess.SubprocessError):
        found = {}
    return ", ".join(f"{name} {found.get(name, 'not found')}" for name in ("vbench", *packages))


def versions(python: Path) -> Mapping[str, str]:
    """Return the installed versions of vbench and of the packages that its dimensions need.

    Raises  OSError, ValueError, SubprocessError: the interpreter does not answer.
    """
    # The time of the file renews the cache when the environment is made again.
    return _versions(python, python.stat().st_mtime_ns)


# Starting the interpreter takes a moment, and every metric of every video asks.
@functools.cache
def _versions(python: Path, _mtime_ns: int) -> Mapping[str, str]:
    # All packages at once, so that one start of the interpreter answers for every dimension.
    names = {package for each in DIMENSIONS.values() for package in each.packages}
    command = [str(python), "-c", _ASK, "vbench", *sorted(names)]
    asked = subprocess.run(
        command, env=bare(), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    if asked.returncode:
        last = asked.stderr.strip().splitlines()[-1:]
        raise ValueError(f"{shlex.quote(str(python))} ended with {asked.returncode}: {last}")
    found: Mapping[str, str] = json.loads(asked.stdout)
    return found


def bare() -> dict[str, str]:
    """Return environment variables for that interpreter, without paths to our own packages."""
    # Our packages would be found first there, in versions that vbench does not work with.
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    variables = {name: value for name, value in os.environ.items() if name not in ours}
    return variables | {"PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
