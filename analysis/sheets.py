"""Draws contact sheets of a results folder: one prompt, every method, the same moments."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analysis.verb_options import of_results
from harness.results.all_runs import load, readable_below
from harness.results.contact_sheet import contact_sheet
from harness.results.run import run_id_of
from harness.results.video_files import Frames, read_frames
from harness.system.errors import UserError
from harness.system.files import slug

# A guard against a slip of the finger. `contact_sheet` never draws more instants than frames.
MOST_COLUMNS = 1000
_LETTERS = 34  # of a line beside the frames


def draw_sheets(rows: pd.DataFrame, results: Path, out: Path, columns: int) -> list[Path]:
    """Write one PNG per suite and prompt, BF16 on top, the others by falling PSNR.

    rows: from `harness.results.all_runs.load`. Returns the files in order.
    Raises  UserError: no finished video among the rows, or the frames of one are gone.
    """
    # A failed video has no frames to show.
    made = rows[rows["failure"].isna()]
    if made.empty:
        raise UserError(f"no finished video below {results}: repeat the runs that make them")
    out.mkdir(parents=True, exist_ok=True)
    # Rows do not name their folder, which may have been moved.
    folders = {run_id_of(folder): folder for folder in readable_below(results)}
    paths: list[Path] = []
    for (suite, index), videos in made.groupby(["suite", "prompt_index"], sort=True):
        path = out / f"{slug(str(suite))}-{index:03d}.png"
        # A number is added rather than overwriting the other suite's sheet.
        if path in paths:  # two suites may have one slug
            path = out / f"{slug(str(suite))}-{len(paths)}-{index:03d}.png"
        paths.append(path)
        _draw(path, videos, folders, columns)
    return paths


def _draw(path: Path, videos: pd.DataFrame, folders: Mapping[str, Path], columns: int) -> None:
    # A run is BF16 if it is its own reference.
    first = videos["run_id"] == videos["reference_run_id"]
    psnr_db = videos.get("psnr_db", pd.Series(float("nan"), videos.index))
    # BF16 on top; it has no PSNR to itself, so a column of its own puts it there.
    ordered = videos.assign(first=first, psnr_db=psnr_db)
    ordered = ordered.sort_values(["first", "psnr_db"], ascending=False)
    pictured: list[tuple[str, Frames]] = []
    for row in ordered.itertuples():
        # The prompt stands beside the topmost row only; it is the same for all.
        words = f"{row.psnr_db:.1f} dB" if pictured else str(row.prompt)
        label = "\n".join([str(row.method), *textwrap.wrap(words, _LETTERS, max_lines=5)])
        stem = f"{row.prompt_index:04d}-{row.sample}"
        if row.run_id not in folders:
            raise UserError(
                f"found no folder of run {row.run_id} below the results: repeat that run"
            )
        pictured.append((label, read_frames(folders[str(row.run_id)] / "videos" / stem)))
    contact_sheet(path, pictured, columns)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sheets`."""
    of_results(parser)
    parser.add_argument("--out", type=Path, default=Path("sheets"), help="folder of the pictures")
    parser.add_argument("--columns", type=_count, default=6, help="instants, evenly over the video")


def _count(word: str) -> int:
    """Parse the number of pictures in a row, for argparse."""
    if not (word.isdecimal() and 1 <= int(word) <= MOST_COLUMNS):
        raise argparse.ArgumentTypeError(f"{word}: give a whole number from 1 to {MOST_COLUMNS}")
    return int(word)


def run(words: argparse.Namespace) -> int:
    """Draw the sheets and print their paths, one per line."""
    results = Path(words.results)
    for path in draw_sheets(load(results), results, words.out, words.columns):
        print(path)
    return 0
