"""Reads a results folder into sections of runs that may be compared.

A section holds runs with the same suite, model, attention window, source of prompts, length and
BF16 reference. Runs that differ in one of these go to another section.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.controls.fewer_steps import shorter
from analysis.section import VIDEO, Method, Section, Setting
from analysis.sources.columns import SOURCES, WINDOWS, by_second, reason, values_of
from analysis.sources.traces import traced
from harness.config.compose import choices, described
from harness.results.all_runs import load, load_run, load_runs, readable_below
from harness.results.command_of_run import Origin
from harness.results.observations import Twice, folders_below, refuse_twice
from harness.results.quantities import QUANTITIES, is_fidelity
from harness.results.run import Run, run_id_of
from harness.results.scores import CONSTANT
from harness.results.summary_table import title
from harness.scoring.metrics.psnr import CAP_DB
from harness.system.errors import UserError

PHASES = "text, denoise, commit and decode, after the device has finished"
CAPPED = f"PSNR: a video that equals BF16's counts as {CAP_DB:g} dB"
REMARKS = {
    "psnr_db": CAPPED,
    "psnr_frame_mean_db": f"PSNR frame mean: an identical frame counts as {CAP_DB:g} dB",
    "psnr_drift": "PSNR drift: null where a second equals BF16's, since no slope to the cap is one",
}
# The end of `source` in a method's file names the row of the study that the method repeats.
ROW = re.compile(r", row (\w+)$")


@dataclass(frozen=True)
class LoadedRun:
    """Rows of one run; folder and request are None if unknown or unreadable."""

    run_id: str
    rows: pd.DataFrame
    folder: Path | None = None
    request: Run | None = None

    @property
    def name(self) -> str:
        """Method and settings, as tables print them."""
        first = self.rows.iloc[0]
        return f"{first['method']} {first['settings']}".strip()

    @property
    def reference_id(self) -> str:
        """Id of the BF16 reference, as the scores record it, else as the request implies it."""
        if "reference_run_id" in self.rows:
            known = self.rows["reference_run_id"].dropna()
            if len(known):
                return str(known.iloc[0])
        return self.request.reference_id if self.request else ""

    @property
    def made(self) -> pd.DataFrame:
        """Rows of the videos that were made."""
        return self.rows[self.rows["failure"].isna()]


def sections(results: Path) -> list[Section]:
    """Read all runs below a results folder; every section lists the runs that cannot be read.

    Raises  UserError: no run is there, or all are damaged (named, with the fix).
    """
    # By the id in the folder's name: it is known even if the rows cannot be read.
    below = [(run_id_of(folder), folder) for folder in folders_below(results)]
    # Before anything is read: a damaged run would hide that another one lies there twice.
    refuse_twice(below)
    folders = dict(below)
    damaged: list[str] = []
    try:
        table = load(results)
    except Twice:
        # A run that lies in two folders would count twice, so this error is never skipped.
        raise
    except UserError:
        # One damaged run must not hide the others: find the readable ones, and name the rest.
        whole = []
        for folder in readable_below(results):
            try:
                load_run(folder)
            except UserError as error:
                damaged.append(f"left out, a run that cannot be read: {error}")
            else:
                whole.append(folder)
        if not whole:
            raise
        table = load_runs(whole)
    groups: dict[tuple[str, int, str], list[LoadedRun]] = {}
    for run_id, rows in table.groupby("run_id", sort=False):
        home, request = folders.get(str(run_id)), None
        with suppress(UserError):  # rows suffice for tables; `check` reports the damage
            request = Run.from_folder(home) if home else None
        run = LoadedRun(str(run_id), rows, home, request)
        frames = int(rows["num_latent_frames"].iloc[0])
        # Runs against two BF16 runs, of another seed for example, must not share a table.
        groups.setdefault((title(rows), frames, run.reference_id), []).append(run)
    titles, found = [name for name, _, _ in groups], []
    for (name, frames, reference), runs in groups.items():
        # The usual title names neither length nor reference; add them only to tell sections apart.
        if titles.count(name) > 1:
            name = f"{name}, {frames} latent frames, against {reference or 'no BF16'}"
        found.append(_section(name, runs, damaged))
    # Last, because it compares every section with all others.
    return [replace(section, shorter=shorter(section, found)) for section in found]


def _section(name: str, runs: Sequence[LoadedRun], damaged: Sequence[str]) -> Section:
    """Build a section: BF16 first, then its reruns and noise-floor runs, then the others.

    damaged: notes on runs that could not be read.
    """
    # BF16 is its own reference. A name such as `bf16` is no proof: users name methods freely.
    base = next((run for run in runs if run.run_id == run.reference_id), None)
    again = [run for run in runs if base and _is_again(run, base)]
    # A different attention backend sums in another order, which shows the noise floor.
    reruns = [run for run in again if _attention(run) == _attention(base)]
    floors = [run for run in again if _attention(run) != _attention(base)]
    first = [run for run in (base, *reruns, *floors) if run]
    ordered = [*first, *(run for run in runs if not any(run is each for each in first))]
    printed = [run.name for run in ordered]
    # Names are keys of everything below, so they must be unique within the section.
    names = {  # the run id tells apart runs that would be printed alike
        run.run_id: run.name if printed.count(run.name) == 1 else f"{run.name} ({run.run_id})"
        for run in ordered
    }
    named = {names[run.run_id]: run for run in ordered}
    videos = pd.concat([_videos(key, run) for key, run in named.items()])
    # Not a quantity: all runs of a section have one length.
    seconds = videos.pop("seconds_generated").dropna()
    curves = {}
    for key, column in WINDOWS.items():
        means = {
            each: by_second(run.made, column)
            for each, run in named.items()
            # BF16's fidelity to itself would be a line at the cap.
            if not (is_fidelity(key) and run is base)
        }
        known = {each: curve for each, curve in means.items() if curve is not None}
        if known:
            curves[key] = pd.DataFrame(known)
    rows = pd.concat([run.rows for run in ordered])
    made = rows[rows["failure"].isna()]
    # Sizes are equal within a section, so the first video that was made has them.
    sizes = made[["num_pixel_frames", "height", "width"]].dropna().astype(int)
    # Traces are files of their own and large; one video of each run is read.
    kept = traced({key: run.folder for key, run in named.items() if run.folder}, VIDEO)
    return Section(
        title=name,
        suite=str(rows["suite"].iloc[0]),
        is_published=False,
        methods={key: _method(key, run) for key, run in named.items()},
        values=_values(videos, list(named)),
        videos=videos,
        reference=names[base.run_id] if base else None,
        setting=Setting(
            model=str(rows["model"].iloc[0]),
            prompts=str(rows["prompt_source"].iloc[0]),
            devices=list(rows["device"].dropna().unique()),
            **({str(key): int(size) for key, size in sizes.iloc[0].items()} if len(sizes) else {}),
        ),
        floors=[names[run.run_id] for run in floors],
        reruns=[names[run.run_id] for run in reruns],
        curves=curves,
        traces=kept.traces,
        components=kept.components,
        traced=kept.said,
        seconds_generated=float(seconds.iloc[0]) if len(seconds) else None,
        phases=PHASES,
        remarks=REMARKS,
        notes=[*_notes(named, base), *damaged, *kept.damaged],
    )  # fmt: skip


def _is_again(run: LoadedRun, base: LoadedRun) -> bool:
    """Whether a run repeats BF16 with the same model and integration; attention may differ."""
    # Whether a run repeats BF16 is read from its request; without one it counts as a method.
    if run is base or run.request is None or base.request is None:
        return False
    return all(
        getattr(run.request, part) == getattr(base.request, part)
        for part in ("method", "model", "integration")
    )


def _attention(run: LoadedRun | None) -> object:
    # Settings and not the backend that ran: `auto` may choose differently from machine to machine.
    return run.request.attention if run and run.request else None


def _videos(name: str, run: LoadedRun) -> pd.DataFrame:
    """Compute the quantities of finished videos, indexed by method, prompt and sample."""
    # One row per video, so that the index pairs it with BF16's.
    made = run.made.drop_duplicates(VIDEO, keep="last")
    index = pd.MultiIndex.from_arrays(
        [[name] * len(made), made["prompt_index"], made["sample"]], names=["method", *VIDEO]
    )
    values = values_of(made)
    # BF16 compared with itself scores perfectly, which says nothing about a method.
    if run.run_id == run.reference_id:
        fidelity = [str(key) for key in values if is_fidelity(str(key))]
        values[fidelity] = np.nan
    values["seconds_generated"] = made["num_pixel_frames"].astype(float) / made["fps"].astype(float)
    return values.set_index(index)


def _values(videos: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Reduce each quantity to one number per method: the mean over its videos, or the largest."""
    grouped = videos.groupby(level="method", sort=False)
    kept = [key for key in QUANTITIES if key in videos]
    most = {key for key in kept if QUANTITIES[key].over == "max"}
    found = grouped[[key for key in kept if key not in most]].mean()
    for key in most:
        # A peak is what a card must hold, so the worst video counts.
        found[key] = grouped[key].max()
    # A method without a single video has a row of NaN rather than none.
    return found.reindex(index=list(names), columns=kept)


def _method(name: str, run: LoadedRun) -> Method:
    """Describe a run: its source, family, failures and command."""
    first, made, request = run.rows.iloc[0], run.made, run.request
    # The stored request and not the file of today: the file may have changed since the run.
    settings = request.method if request else {}
    source = str(settings.get("source") or "")
    row = ROW.search(source)  # a method of ours names no row
    failed = run.rows[run.rows["failure"].notna()]
    # Videos that failed alike share a line with their number.
    causes = (failed["failure"] + ": " + failed["failure_reason"].fillna("")).value_counts()
    why_missing = (
        {key: reason(made, source) for key, source in SOURCES.items()} if len(made) else {}
    )
    # The description is of the method's file today; a run of a deleted file has none.
    files, command = choices("method"), ""
    if request is not None and run.folder is not None:
        origin = Origin.of_run(run.folder, None, request, ())
        command = origin.typed({item.key for item in request.items})
    return Method(
        name=name,
        row=row[1] if row else "",
        family=str(settings.get("family") or "unknown"),
        num_videos=len(made),
        num_failed=len(failed),
        build=str(first["integration"] or ""),
        source=source,
        description=described(files[first["method"]]) if first["method"] in files else "",
        settings=str(first["settings"]),
        run_id=run.run_id,
        folder=run.folder,
        command=command,
        num_wanted=len(request.items) if request else None,
        failures=tuple(f"{count} x {cause}" for cause, count in causes.items()),
        reasons={key: why for key, why in why_missing.items() if why},
        skip_ratio=float(made["skip_ratio"].astype(float).mean()),
        flops=float(made["flops"].astype(float).mean()),
        request=request,
    )


def _notes(runs: Mapping[str, LoadedRun], base: LoadedRun | None) -> list[str]:
    """Report mixed machines or code, failures, unfinished runs and a missing reference."""
    found = []
    rows = pd.concat([run.rows[["device", "code_version"]] for run in runs.values()])
    for what, column in (("machines", "device"), ("versions of the code", "code_version")):
        several = list(dict.fromkeys(rows[column].dropna()))
        if len(several) > 1:
            found.append(f"mixed: rows of {len(several)} {what} ({'; '.join(several)})")
    if base is None:
        found.append(
            "no BF16 run among them: no differences to BF16 and no intervals of them; add "
            "method=bf16 with the same settings"
        )
    builds = {name: str(run.rows["integration"].iloc[0] or "") for name, run in runs.items()}
    for build in sorted({*builds.values()} - {builds[next(iter(runs))]}):
        names = ", ".join(name for name, other in builds.items() if other == build)
        found.append(f"integration={build}: {names}; their peaks and seconds are of that program")
    for name, run in runs.items():
        failed = len(run.rows) - len(run.made)
        if failed:
            causes = ", ".join(sorted(run.rows["failure"].dropna().unique()))
            found.append(f"{name}: {failed} of {len(run.rows)} videos failed ({causes})")
        # Scores explain in `..._reason` that a video or its reference shows one colour only.
        reasons = [key for key in map(str, run.made.columns) if key.endswith("_reason")]
        is_constant = (
            run.made[reasons].fillna("").apply(lambda x: x.str.contains(CONSTANT, regex=False))
        )
        if constant := int(is_constant.any(axis=1).sum()):
            found.append(
                f"{name}: {constant} of {len(run.made)} videos are {CONSTANT}, or their reference "
                "is: their scores say nothing of quality"
            )
        wanted = len(run.request.items) if run.request else len(run.rows)
        if len(run.rows) < wanted:
            found.append(
                f"{name}: unfinished, {len(run.rows)} of {wanted} videos; its command continues"
            )
        if run.request is None:
            found.append(
                f"{name}: its request.json cannot be read, so family, source and command "
                "are not known; python -m harness check says more"
            )
    return found
