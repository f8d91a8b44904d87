"""What results say: `python -m analysis table|drift|vbench|validity|sheets <results>`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from analysis import drift, vbench
from analysis.report import into_page, report, write
from analysis.sheets import draw_sheets
from analysis.tables import markdown, print_section, sections
from harness.errors import UserError
from harness.store import load


def main() -> int:
    """Print what is asked for; exit code 2 for what the user can mend."""
    words = _parser().parse_args()
    try:
        verbs = {"table": _table, "drift": _drift, "vbench": _vbench}
        verbs |= {"validity": _validity, "sheets": _sheets}
        verbs[words.verb](words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    table = verbs.add_parser("table", help="the table of everything below a results folder")
    drifts = verbs.add_parser("drift", help="how quality changes in the course of the videos")
    scored = verbs.add_parser("vbench", help="VBench's dimensions, quality and total of every run")
    validity = verbs.add_parser(
        "validity", help="do methods rank as in the published study? Spearman's correlation"
    )
    sheets = verbs.add_parser("sheets", help="a picture a prompt: all methods at the same instants")
    for verb in (table, drifts, scored, validity, sheets):
        verb.add_argument("results", nargs="?", default="results", help="folder of the results")
    for verb in (table, drifts, scored, validity):
        verb.add_argument("--format", choices=["text", "md"], default="text")
    validity.add_argument(
        "--published", type=Path, required=True, help="the study's summaries.csv; see docs"
    )
    validity.add_argument("--picture", type=Path, help="draw the scatter into this SVG file")
    drifts.add_argument("--picture", type=Path, help="draw the curves by second into this SVG file")
    validity.add_argument("--page", type=Path, help="write the Markdown between this page's marks")
    scored.add_argument("--data-dir", help="where the official prompts lie, for suite=vbench")
    sheets.add_argument("--out", type=Path, default=Path("sheets"), help="folder of the pictures")
    sheets.add_argument("--columns", type=int, default=6, help="instants, evenly over the video")
    return parser


def _table(words: argparse.Namespace) -> None:
    """Every run, a table a contract."""
    runs = [rows for _, rows in load(words.results).groupby("run_id", sort=False)]
    for section in sections(runs):
        if words.format == "md":
            print(markdown(section))
        else:
            print_section(section)


def _drift(words: argparse.Namespace) -> None:
    """Last second less the first and slope, with intervals, and against BF16."""
    found = drift.drift(load(words.results))
    if words.picture:
        write(words.picture, drift.svg(found))
    for section in found:
        if words.format == "md":
            print(section.markdown())
        else:
            section.show()


def _vbench(words: argparse.Namespace) -> None:
    """Dimensions and scores, a table a suite and model."""
    for grid, notes in vbench.tables(load(words.results), words.data_dir):
        if words.format == "md":
            print(grid.markdown())
        else:
            grid.show()
        for note in notes:
            print(f"- {note}")


def _validity(words: argparse.Namespace) -> None:
    """The published methods among them, against the study."""
    found = report(load(words.results), words.published)
    if words.picture:
        write(words.picture, found.svg())
    if words.page:
        into_page(words.page, found.markdown(), words.picture)
    if words.format == "md":
        print(found.markdown())
    else:
        found.show()


def _sheets(words: argparse.Namespace) -> None:
    """Where the pictures are, a line each."""
    results = Path(words.results)
    for path in draw_sheets(load(results), results, words.out, words.columns):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
