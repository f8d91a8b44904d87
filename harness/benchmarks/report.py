"""Writes the rows of a bench: a JSON file as they come, and a Markdown table at the end."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import torch

from harness.benchmarks.options import Options
from harness.benchmarks.timing import Spread
from harness.system import machine
from harness.system.errors import UserError, first_line
from harness.system.files import whole_file, write_json
from harness.system.text_table import Grid
from harness.system.version import git_state


@dataclass(frozen=True)
class Row:
    """One measurement.

    item, case: the quantity, and what it was measured on.
    value: in `unit`; None if there is none.
    low, high: quartiles over rounds.
    target: upper bound for the value; with `at_least` a lower bound.
    note: what a reader must know, above all why a value is missing.
    more: further numbers.
    """

    item: str
    case: str
    value: float | None = None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    target: float | None = None
    at_least: bool = False
    note: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, item: str, case: str, spread: Spread, unit: str, **rest: Any) -> Row:
        """Build a row from a median and its quartiles."""
        return cls(item, case, spread.middle, unit, spread.low, spread.high, **rest)

    @property
    def met(self) -> bool | None:
        """Whether the value meets its target; None without value or target."""
        if self.value is None or self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    @property
    def cells(self) -> list[str]:
        """The row as text cells."""
        number = "-" if self.value is None else f"{self.value:.4g} {self.unit}".strip()
        spread = "" if self.low is None else f"{self.low:.4g} to {self.high:.4g}"
        bound = "at least" if self.at_least else "at most"
        target = "" if self.target is None else f"{bound} {self.target:.4g}"
        met = {None: "", True: "yes", False: "no"}[self.met]
        return [self.item, self.case, number, spread, target, met, self.note]


COLUMNS = ("measured", "of", "value", "quartiles", "target", "met", "note")


class Report:
    """Files of one bench; a repetition on the same day and device overwrites them."""

    def __init__(
        self,
        name: str,
        title: str,
        device: torch.device,
        options: Options,
        packages: Sequence[str] = (),
    ) -> None:
        """Write the file without rows.

        packages: further packages whose versions affect the numbers.
        Raises  UserError: the folder cannot be written to.
        """
        # Quick and dry runs are named so: nobody should take their times for results.
        now = datetime.now(UTC)
        kind = "-dry-run" if options.dry_run else "-quick" if options.quick else ""
        # The device is in the name, so that the files of several machines lie side by side.
        place = re.sub(r"[^a-z0-9]+", "-", machine.device_name(device).lower()).strip("-")
        stem = f"{now:%Y-%m-%d}-{place}-{name}{kind}"
        self.path = options.folder / f"{stem}.json"
        self.rows: list[Row] = []
        self.head: dict[str, Any] = {
            "title": title,
            "date": now.isoformat(timespec="seconds"),
            "command": shlex.join(["python", "-m", "harness", "bench", name, *options.words]),
            "device": machine.device_name(device),
            "threads": torch.get_num_threads(),
            "versions": versions(device, packages),
            "git": git_state(),
            "state": "running",
        }
        # Before anything is measured: a folder that cannot be written would lose all of it.
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write()
        except OSError as error:
            raise UserError(
                f"bench --out {options.folder}: cannot write there ({error}); name another folder"
            ) from error
        print(f"{title}: {self.head['device']}, {_listed(self.head['versions'])}", flush=True)

    def add(self, row: Row) -> None:
        """Add a row: print it and write the file."""
        # At once, because a bench takes minutes to hours and may be stopped.
        self.rows.append(row)
        item, case, number, spread, target, met, note = row.cells
        words = [f"{item}, {case}: {number}", f"({spread})" * bool(spread), target, met, note]
        print("  " + " ".join(filter(None, words)), flush=True)
        self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The table is written also if the bench was stopped: its rows are valid measurements.
        # Ctrl-C has no message: the name of its class says enough.
        ended = first_line(error) if isinstance(error, Exception) else kind and kind.__name__
        self.head["state"] = f"stopped by {ended}" if ended else "done"
        self._write()
        table = self.path.with_suffix(".md")
        with whole_file(table) as unfinished:
            unfinished.write_text(self.markdown())
        print(table, flush=True)

    def markdown(self) -> str:
        """Return title, provenance and rows as Markdown."""
        # Made from the same rows as the JSON file, so both always agree.
        head, git = self.head, self.head["git"]
        commit = f"{git['commit']}{' with changes' if git['dirty'] else ''}"
        table = Grid(f"# {head['title']}", COLUMNS, [x.cells for x in self.rows], words=range(7))
        title, _, rows = table.markdown().partition("\n\n")
        provenance = (
            f"{head['date']}, {head['device']}, {head['threads']} threads, "
            f"{_listed(head['versions'])}, commit {commit}.\n"
            f"Made by `{head['command']}`; {head['state']}, {len(self.rows)} rows. Values are "
            "medians over rounds where quartiles stand beside them."
        )
        return f"{title}\n\n{provenance}\n\n{rows}"

    def _write(self) -> None:
        # Rewrite the whole file after every row: a killed bench keeps its rows in valid JSON, in
        # the state `running`.
        rows = [{**asdict(row), "met": row.met} for row in self.rows]
        write_json(self.path, {**self.head, "rows": rows})


def versions(device: torch.device, packages: Sequence[str] = ()) -> dict[str, str | None]:
    """Return the versions that times depend on; None for absent packages."""
    found: dict[str, str | None] = {"torch": torch.__version__}
    for package in ("triton", *packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    if device.type == "cuda":
        found["cuda"] = torch.version.cuda
        found["cudnn"] = str(torch.backends.cudnn.version())
        found["driver"] = nvidia_smi("driver_version")
    return found


def nvidia_smi(fields: str) -> str | None:
    """Query the driver about the first card; None if that fails."""
    # torch knows the version of CUDA that it was built with, but not that of the driver.
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _listed(found: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version or 'absent'}" for name, version in found.items())
