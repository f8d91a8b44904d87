"""`python -m harness check results/`: whether folders of results are what they say. Reads only."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness import store
from harness.errors import UserError
from harness.integrity.folder import dead, examine
from harness.integrity.mend import removing, shown
from harness.integrity.report import Report
from harness.manifest import MANIFEST

MARKS = {"request.json", MANIFEST, store.OBSERVATIONS}  # any of them makes a folder a run


def check(roots: Sequence[Path], own: Path | None = None) -> int:
    """Print a line a problem with the command that mends it; 0 if all runs are complete, else 1.

    own: the folder of `--config-dir`, where the methods of some runs may lie.
    Raises  UserError: there is no run below the folders.
    """
    folders = runs(roots)
    reports, strays = [], [stray for root in roots for stray in _strays(root)]
    for folder in _watched(folders):
        report = examine(folder, own)
        reports.append(report)
        for finding in report.findings:
            print(f"{shown(folder)}: {finding}", flush=True)
    for stray in strays:
        print(
            f"{shown(stray.parent)}: {stray.name} was left; type `{removing([stray])}` to mend it"
        )
    for note in mixed(reports):
        print(f"note: {note}")
    states = Counter(report.state for report in reports)
    print(
        f"{len(reports)} runs: {states['complete']} complete, {states['unfinished']} unfinished, "
        f"{states['problem']} with problems"
    )
    return int(states["complete"] < len(reports) or bool(strays))


def runs(roots: Sequence[Path]) -> list[Path]:
    """Every folder of a run at or below some folders, in order.

    Raises  UserError: there is none.
    """
    folders = sorted({folder for root in roots for folder in _runs(root)})
    if not folders:
        named = " and ".join(map(str, roots))
        raise UserError(f"no runs below {named}: give a folder that python -m harness wrote")
    return folders


def _runs(root: Path) -> Iterator[Path]:
    for path, below, files in os.walk(root):
        if MARKS & set(files):
            below.clear()
            yield Path(path).absolute()


def mixed(reports: Iterable[Report]) -> Iterator[str]:
    """Where rows of several machines or versions of the code stand in one run or one table."""
    tables: dict[Path, list[Report]] = {}
    for report in reports:
        tables.setdefault(report.folder.parent, []).append(report)
    for folder, several in tables.items():
        places = [(each.folder, [each]) for each in several]
        if len(several) > 1:
            places.append((folder, several))
        for place, members in places:
            for what in ("machines", "code versions"):
                counts = Counter[str]()
                for each in members:
                    counts += each.devices if what == "machines" else each.code_versions
                if len(counts) > 1:
                    named = ", ".join(f"{name} ({count} rows)" for name, count in counts.items())
                    yield f"{shown(place)}: rows of {len(counts)} {what}: {named}"


def _strays(root: Path) -> Iterator[Path]:
    """Halves of files in a results folder itself."""
    return (path for path in sorted(root.glob(".*.unfinished")) if _is_no_run(root) and dead(path))


def _is_no_run(folder: Path) -> bool:
    return not any((folder / name).exists() for name in MARKS)


def _watched(folders: Sequence[Path]) -> Iterable[Path]:
    """The folders, counted on a terminal while digests of many files are taken."""
    if not sys.stderr.isatty():
        return folders
    from rich.console import Console
    from rich.progress import track

    return track(folders, "checking", console=Console(stderr=True), transient=True)
