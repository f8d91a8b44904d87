"""Leaves out runs that an earlier version of the harness wrote, with one note per process."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from harness.results.observation import SCHEMA_VERSION, Observation
from harness.system.errors import UserError
from harness.system.logs import remark

MAX_COMMANDS = 3  # commands shown in the note; `check` lists the others
_told: set[Path] = set()  # results folders for which this process has printed the note


def schema_of(folder: Path) -> int | None:
    """Return the schema version of a run's observations if it is older than ours, else None.

    Returns None for a damaged file too; the code that reads it later reports the damage.
    """
    # Imported late, as everywhere, so that `--help` and refused settings need not wait for it.
    import pyarrow as pa
    import pyarrow.parquet as pq

    from harness.results.observations import OBSERVATIONS
    from harness.system import parquet

    try:
        file = pq.ParquetFile(folder / OBSERVATIONS)
        names = file.schema_arrow.names
        # Fast path: reading the footer is enough for a run of the current schema.
        if names == parquet.schema(Observation).names or "schema_version" not in names:
            return None
        versions = file.read(["schema_version"])["schema_version"].unique().to_pylist()
    except (pa.ArrowException, OSError):
        return None
    # A run that a newer harness continued is not older; its reader refuses it with its own words.
    found = [version for version in versions if type(version) is int]
    return min(found) if found and max(found) < SCHEMA_VERSION else None


def without_older(root: Path, folders: Sequence[Path]) -> list[Path]:
    """Return the run folders without those of an older schema, which one note lists.

    Raises  UserError: all of them are older.
    """
    # A new schema gives new run ids, so old runs can be repeated but never continued.
    versions = {folder: schema_of(folder) for folder in folders}
    older = [folder for folder in folders if versions[folder] is not None]
    kept = [folder for folder in folders if versions[folder] is None]
    if not older:
        return kept
    schemas = sorted({str(versions[folder]) for folder in older})
    message = describe(root, older, " and ".join(schemas))
    if not kept:
        raise UserError(message)
    # A command may read a results folder several times.
    if root.absolute() not in _told:
        _told.add(root.absolute())
        remark(f"note: {message}")
    return kept


def describe(root: Path, older: Sequence[Path], schemas: str) -> str:
    """Return the note: which runs are no longer read, and the commands that repeat them."""
    from harness.system.files import shown

    runs = "1 run" if len(older) == 1 else f"{len(older)} runs"
    are = "is" if len(older) == 1 else "are"
    names = ", ".join(folder.name for folder in older[:MAX_COMMANDS])
    more = f" and {len(older) - MAX_COMMANDS} more" if len(older) > MAX_COMMANDS else ""
    commands = commands_of(older)
    again = " and ".join(f"`{command}`" for command in commands[:MAX_COMMANDS])
    if len(commands) > MAX_COMMANDS or not commands:
        check = f"`python -m harness check {shlex.quote(shown(root))}`"
        again = f"{again}; {check} names the others" if again else f"see {check}"
    return (
        f"{runs} below {shown(root)} ({names}{more}) {are} of an earlier version of the harness "
        f"(schema {schemas}, this one reads {SCHEMA_VERSION}) and no longer read; to make them "
        f"again type {again}"
    )


def commands_of(folders: Sequence[Path]) -> list[str]:
    """Return the commands that repeat some runs; runs that differ only in method share one.

    A run whose request cannot be read gives no command.
    """
    methods: dict[tuple[str, ...], list[str]] = {}
    for folder in folders:
        command = command_of(folder)
        if command is not None:
            words = shlex.split(command)
            method = next(word for word in words if word.startswith("method="))
            others = tuple(word for word in words if word != method)
            methods.setdefault(others, []).append(method.removeprefix("method="))
    found = []
    for (python, m, harness, *words), names in methods.items():
        names = list(dict.fromkeys(names))
        sweep = ["-m"] if len(names) > 1 else []
        method = f"method={','.join(names)}"
        found.append(shlex.join([python, m, harness, *sweep, method, *words]))
    return found


def command_of(folder: Path, own: Path | None = None) -> str | None:
    """Return the command that repeats a run, from its request; None if that cannot be read.

    own: the folder given with `--config-dir`.
    """
    from harness.results.command_of_run import Origin
    from harness.results.run import Run

    # The note must come even if one of the old requests is damaged.
    try:
        run = Run.from_folder(folder)
    except UserError:
        return None
    return Origin.of_run(folder, own, run, ()).typed({item.key for item in run.items})
