"""Verifies results folders (`python -m harness check results/`). It never changes a file."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness.checks import files, known_command
from harness.checks.run_folder import Report, examine
from harness.results import all_runs
from harness.results.command_of_run import rm_command
from harness.results.manifest import runs
from harness.system.files import shown, stale


def check(roots: Sequence[Path], own: Path | None = None) -> int:
    """Print one line per problem, with the command that fixes it; return exit code 0 or 1.

    own: the folder given with `--config-dir`, which may hold the methods of some runs.
    Returns 0 if all runs are complete, else 1.
    Raises  UserError: there is no run below the folders.
    """
    known_command.is_known.cache_clear()  # a user's files may have changed since the last check
    folders = runs(roots)
    watched: Iterable[Path] = folders
    if sys.stderr.isatty():  # hashing many files takes long
        from rich.console import Console
        from rich.progress import track

        watched = track(folders, "checking", console=Console(stderr=True), transient=True)
    reports, wrong = [], 0
    for folder in watched:
        report = examine(folder, own)
        reports.append(report)
        # Flushed, since the next folder may take minutes.
        for finding in report.findings:
            print(f"{shown(folder)}: {finding}", flush=True)
    for problem in _of_several(reports, roots):
        print(problem)
        wrong += 1
    for path in sorted({path.absolute() for root in roots for path in stale(root)}):
        print(
            f"note: {shown(path)} was left by a process that was killed; nothing reads it, and the "
            "next command on this folder removes it"
        )
    for note in mixed(reports):
        print(f"note: {note}")
    states = Counter(report.state for report in reports)
    print(
        f"{len(reports)} runs: {states['complete']} complete, {states['unfinished']} unfinished, "
        f"{states['problem']} with problems"
    )
    return int(states["complete"] < len(reports) or wrong > 0)


def mixed(reports: Iterable[Report]) -> Iterator[str]:
    """Yield a note for each run or table with rows of several machines or versions of the code."""
    # By folder of suite and model, whose runs one table compares.
    files: dict[Path, list[Report]] = {}
    for report in reports:
        files.setdefault(report.folder.parent, []).append(report)
    for folder, several in files.items():
        # Each run alone, then all runs that stand in one table: their numbers are compared.
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


def _of_several(reports: Sequence[Report], roots: Sequence[Path]) -> Iterator[str]:
    """Yield a message for each run that is in several folders, and each damaged wide table."""
    # By the ids in the rows, not by the names of the folders: a copy may have been renamed.
    places: dict[str, list[Path]] = {}
    for report in reports:
        for run_id in report.run_ids:
            places.setdefault(run_id, []).append(report.folder)
    for run_id, folders in places.items():
        if len(folders) > 1:
            named = ", ".join(map(shown, folders))
            yield (
                f"run {run_id} is there {len(folders)} times ({named}), so its videos count as "
                "often; keep one of these folders below the results and move the others away"
            )
    # A run lies at <results>/<suite>/<model>/<run>, and the table in <results>.
    runs_at = [report.folder.parents for report in reports]
    tops = {parents[2] for parents in runs_at if len(parents) > 2}
    for path in sorted({top.absolute() / all_runs.WIDE for top in (*roots, *tops)}):
        try:
            if path.exists():
                files.checked(path)
        except files.Wrong as wrong:
            yield (
                f"{shown(path)}: {wrong}; type `{rm_command([path])}` to fix it, and the "
                "next command on these results writes it anew"
            )
