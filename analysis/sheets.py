"""Pictures of a results folder: one prompt, every method, the same instants."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pandas as pd

from harness.errors import UserError
from harness.sheet import contact_sheet
from harness.video import Frames, read_frames

_LETTERS = 34  # of a line beside the frames


def draw_sheets(rows: pd.DataFrame, results: Path, out: Path, columns: int) -> list[Path]:
    """A PNG a suite and prompt in folder `out`, BF16 on top, the others by their fidelity.

    rows: of `harness.store.load`. Returns the files in order.
    Raises  UserError: no finished video among the rows, or the frames of one are gone.
    """
    made = rows[rows["failure"].isna()]
    if made.empty:
        raise UserError(f"no finished video below {results}: repeat the runs that make them")
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for (suite, index), videos in made.groupby(["suite", "prompt_index"], sort=True):
        paths.append(out / f"{suite}-{index:03d}.png")
        _draw(paths[-1], videos, results, columns)
    return paths


def _draw(path: Path, videos: pd.DataFrame, results: Path, columns: int) -> None:
    first = videos["run_id"] == videos["reference_run_id"]
    psnr_db = videos.get("psnr_db", pd.Series(float("nan"), videos.index))
    ordered = videos.assign(first=first, psnr_db=psnr_db)
    ordered = ordered.sort_values(["first", "psnr_db"], ascending=False)
    pictured: list[tuple[str, Frames]] = []
    for row in ordered.itertuples():
        words = f"{row.psnr_db:.1f} dB" if pictured else str(row.prompt)
        label = "\n".join([str(row.method), *textwrap.wrap(words, _LETTERS, max_lines=5)])
        pictured.append((label, read_frames(_folder(str(row.run_id), results) / str(row.video))))
    contact_sheet(path, pictured, columns)


def _folder(run_id: str, results: Path) -> Path:
    """The folder of a run, whose id ends its name."""
    found = next(results.glob(f"**/*-{run_id}/"), None)
    if found is None:
        raise UserError(f"found no folder of run {run_id} below {results}: repeat that run")
    return found
