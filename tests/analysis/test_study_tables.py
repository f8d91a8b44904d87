"""The study's printed tables, from its own data: whole, and number by number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.section import Section
from analysis.sources.published.observations import sections
from analysis.study.across import made
from analysis.study.spec import chosen, tables
from harness.system.text_table import Grid
from tests.conftest import SHARED
from tests.support.latex import check

GOLDEN = Path(__file__).parents[1] / "golden" / "tables"
SUITES = {"MovieGen": "moviegen", "StoryEval": "storyeval"}
# Headings of ours, columns of the study's summaries, and decimals as it prints them.
PRINTED = {
    "ratio": ("compression_ratio", 2),
    "peak GiB": ("peak_vram_gb", 2),
    "runtime s": ("runtime_s", 1),
    "PSNR frame mean dB": ("psnr", 2),
    "SSIM": ("ssim", 3),
    "LPIPS": ("lpips", 3),
    "background": ("background_consistency", 3),
    "imaging": ("imaging_quality", 3),
    "subject": ("subject_consistency", 3),
    "aesthetic": ("aesthetic_quality", 3),
    "drift last": ("drift_last", 3),
}
PLACES = {"T1": 3, "T2": 3}  # of all columns; four of those with long names


@pytest.fixture(scope="module")
def study() -> list[Section]:
    path = SHARED / "published" / "observations.parquet"
    if not path.is_file():
        pytest.skip(f"the study's data not found: {path}")
    return sections(path)


@pytest.fixture(scope="module")
def summaries(study: list[Section]) -> dict[tuple[str, str], pd.Series]:
    table = pd.read_csv(SHARED / "published" / "summaries.csv")
    return {(str(r["benchmark"]), str(r["method"])): r for _, r in table.iterrows()}


def one(study: list[Section], name: str, statistics: bool | None = None) -> Grid:
    (grid,), _ = made(chosen(name), study, statistics, split=False)
    return grid


def read(name: str) -> tuple[list[str], list[dict[str, str]]]:
    """The table of a golden Markdown file."""
    lines = (GOLDEN / f"table-{name}.md").read_text().splitlines()
    rows = [[x.strip() for x in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    header = rows[0]
    return header, [dict(zip(header, row, strict=True)) for row in rows[2:]]


@pytest.mark.parametrize("name", tables())
def test_tables_are_the_golden_ones(study: list[Section], name: str) -> None:
    """After a wanted change: python -m analysis tables --source published --format md --out
    tests/golden/tables, and the same with latex."""
    grid = one(study, name)
    assert grid.markdown() == (GOLDEN / f"table-{name}.md").read_text()
    assert grid.latex() == (GOLDEN / f"table-{name}.tex").read_text()
    assert len(check(grid.latex())) == len(grid.lines) + 1


@pytest.mark.parametrize(
    "name", [x.id for x in tables().values() if x.kind in ("methods", "beside")]
)
def test_golden_numbers_are_those_of_the_summaries(
    study: list[Section], summaries: dict[tuple[str, str], pd.Series], name: str
) -> None:
    header, rows = read(name)
    checked = 0
    for heading, suite, (column, decimals) in headings(name, header):
        places = PLACES.get(name, 4 if "-" in name else decimals)
        for row in rows:
            summary = summaries.get((suite, row["method"]))
            value = math.nan if summary is None else float(summary[column])
            expected = "NA" if math.isnan(value) else f"{value:.{places}f}"
            assert row[heading] == expected, f"{row['method']}, {heading}"
            checked += 1
    assert checked >= 5 * len(rows) or name in ("2", "3", "A1", "B1")
    assert checked >= 3 * len(rows)


def headings(name: str, header: list[str]) -> Iterator[tuple[str, str, tuple[str, int]]]:
    for heading in header:
        title, _, rest = heading.partition(" ")
        if title in SUITES and rest in PRINTED:
            yield heading, SUITES[title], PRINTED[rest]
        elif heading in PRINTED:
            is_moviegen = name in ("2", "4", "A1", "A2") or name.endswith("moviegen")
            yield heading, "moviegen" if is_moviegen else "storyeval", PRINTED[heading]


def test_table_1_counts_rows_and_summaries() -> None:
    _, rows = read("1")
    counted = [(row["suite"], row["videos"], row["methods"]) for row in rows]
    assert counted == [("MovieGen", "310", "33"), ("StoryEval", "300", "30")]
    assert "KIVI_K2_V4 3, QUAROT_KV_INT4_REFRESH 2, RTN_K2_V4 5" in rows[0]["coverage"]


def test_table_2_as_printed() -> None:
    """Runtimes against BF16 by hand: 75.0 / 58.6, 48.3 / 58.6, 236.6 / 58.6."""
    _, rows = read("2")
    assert len(rows) == 10
    found = {row["method"]: row["runtime vs BF16"] for row in rows}
    assert found["BF16"] == "+0.0%"
    assert found["FLOWCACHE_SOFT_PRUNE_INT4"] == "+28.0%"
    assert found["FLOWCACHE_NATIVE"] == "-17.6%"
    assert found["QUAROT_KV_INT4"] == "+303.9%"


def test_table_6_has_the_22_printed_rows() -> None:
    flowcache = ["PRUNE_INT2", "SOFT_PRUNE_INT2", "PRUNE_INT4", "SOFT_PRUNE_INT4"]
    moviegen = [*(f"FLOWCACHE_{x}" for x in flowcache), "PRQ_INT2"]
    storyeval = [
        *(f"FLOWCACHE_{x}" for x in flowcache[:3]),
        *("QUAROT_KV_INT4", "PRQ_INT2", "PRQ_INT4"),
    ]
    _, rows = read("6")
    axes = ("imaging quality", "terminal drift")
    assert [(row["suite"], row["quality axis"], row["method"]) for row in rows] == [
        (suite, axis, name)
        for suite, names in (("MovieGen", moviegen), ("StoryEval", storyeval))
        for axis in axes
        for name in names
    ]
    assert len(rows) == 22
    first = rows[0]
    assert (first["ratio"], first["quality"], first["peak GiB"]) == ("7.78", "0.637", "11.11")


def test_table_7_has_the_five_printed_correlations() -> None:
    _, rows = read("7")
    assert {row["quantity"]: row["Pearson r"] for row in rows} == {
        "ratio": "0.9999",
        "runtime": "0.9996",
        "imaging": "0.9318",
        "drift last": "0.9374",
        "SSIM": "0.9876",
    }
    assert {row["methods"] for row in rows} == {"30"}


def test_table_8_is_the_mean_of_both_suites(
    summaries: dict[tuple[str, str], pd.Series],
) -> None:
    _, rows = read("8")
    means = [float(row["mean imaging"]) for row in rows]
    assert len(rows) == 5 and means == sorted(means)
    for row in rows:
        both = [summaries[suite, row["method"]] for suite in SUITES.values()]
        for heading, column in (("imaging", "imaging_quality"), ("drift last", "drift_last")):
            mean = sum(float(each[column]) for each in both) / 2
            assert row[f"mean {heading}"] == f"{mean:.3f}"
        assert row["MovieGen ratio"] == f"{both[0]['compression_ratio']:.2f}"
        assert row["MovieGen runtime s"] == f"{both[0]['runtime_s']:.1f}"
    text = (GOLDEN / "table-8.md").read_text()
    assert "AGE_TIER_INT2 0.524" in text  # lower than the fifth, and not among the study's five


@pytest.mark.parametrize("suite", ["moviegen", "storyeval"])
def test_derived_tables_have_the_published_order_flags_and_labels(
    study: list[Section], suite: str
) -> None:
    published = pd.read_csv(SHARED / "published" / "frontiers.csv", keep_default_na=False)
    published = published[published["benchmark"] == suite]
    _, rows = read(f"derived-{suite}")
    _, of_readme = read(f"readme-{suite}")
    order = list(published["method"])
    assert [row["method"] for row in rows] == [row["method"] for row in of_readme] == order
    flags = [x for x in published if x.startswith("pareto_")]
    shown = [heading for heading in rows[0] if heading.startswith("frontier: ")]
    assert len(shown) == len(flags) == 4
    for row, (_, theirs) in zip(rows, published.iterrows(), strict=True):
        assert [row[heading] for heading in shown] == [
            "yes" if str(theirs[flag]) == "True" else "no" for flag in flags
        ]
        assert row["recommended for"] == theirs["recommended_for"]


def test_derived_columns_by_hand() -> None:
    """Of MovieGen's RTN_INT4 against BF16, from their printed numbers."""
    _, rows = read("derived-moviegen")
    found = {row["method"]: row for row in rows}
    rtn = found["RTN_INT4"]
    assert rtn["SSIM - BF16"] == f"{0.6880 - 1:.4f}" and rtn["SSIM drop"] == "0.3120"
    assert rtn["LPIPS - BF16"] == rtn["LPIPS"]
    assert float(rtn["runtime overhead %"]) == pytest.approx(
        100 * (86.2636 / 58.5726 - 1), abs=1e-3
    )
    assert float(rtn["speed-up"]) == pytest.approx(58.5726 / 86.2636, abs=1e-4)
    assert float(rtn["peak reduction %"]) == pytest.approx(100 * (1 - 19.9831 / 19.2801), abs=1e-3)
    assert rtn["compression gain"] == "3.2000"
    assert {row["PSNR frame mean - BF16"] for row in rows} == {"NA"}  # BF16's is infinite
    assert found["KIVI_K2_V4"]["compression gain"] == "NA"


def test_experiments_say_what_was_not_finished_and_not_run() -> None:
    states = {
        name: {row["method"]: row["status"] for row in read(f"experiments-{name}")[1]}
        for name in SUITES.values()
    }
    assert states["moviegen"]["RTN_K2_V4"] == "partial_failed"
    assert states["storyeval"]["RTN_K2_V4"] == "not_run"
    for found in states.values():
        assert list(found.values()).count("complete") == 11


@pytest.mark.usefixtures("study")
def test_what_is_known_of_the_course_of_a_video() -> None:
    points = pd.read_csv(SHARED / "published" / "drift_points.csv")
    _, rows = read("drift-storyeval")
    assert len(rows) == 30 and list(rows[0])[1:] == ["3.125 s", "6.25 s", "9.375 s"]
    for row in rows:
        theirs = points.query("benchmark == 'storyeval' and method == @row['method']")
        expected = [f"{value:.3f}" for value in theirs["imaging_quality"]]
        assert list(row.values())[1:] == expected
    _, rows = read("drift-moviegen")
    assert sum(row["3.125 s"] == "NA" for row in rows) == 28
    peaks = pd.read_csv(SHARED / "published" / "trace_peaks.csv")
    largest = peaks.query("benchmark == 'moviegen'").set_index("method")["allocated_gb"]
    _, rows = read("traces-moviegen")
    assert {row["method"]: row["memory GiB"] for row in rows} == {
        name: f"{value:.3f}" for name, value in largest.items()
    }


def test_statistics_of_the_study_when_asked(study: list[Section]) -> None:
    plain, full = one(study, "B2"), one(study, "B2", statistics=True)
    assert "[" not in plain.lines[0][1] and plain.header[1] == "PSNR frame mean dB"
    cells = dict(zip(full.header, full.lines[1], strict=True))
    assert cells["SSIM"].startswith("0.451 [")
    said = " ".join(full.notes)
    assert "imaging" in said and "no value of each video, so no interval: 19 methods" in said
    assert not any(line[1].endswith("*") for line in full.lines)  # no noise floor was published
    ten = " ".join(one(study, "A2", statistics=True).notes)
    assert "10 prompts cannot show any difference after correction" in ten


def test_the_command_prints_and_writes_them(
    study: list[Section], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tables", "--source", "published"]
    words += ["--observations", str(SHARED / "published" / "observations.parquet")]
    assert main([*words, "--table", "2,a1", "--format", "md"]) == 0
    golden = [(GOLDEN / f"table-{name}.md").read_text() for name in ("2", "A1")]
    assert capsys.readouterr().out == "\n".join(golden)
    assert main([*words, "--format", "csv", "--out", str(tmp_path)]) == 0
    written = capsys.readouterr().out.split()
    assert len(written) == len(tables()) and all(Path(path).is_file() for path in written)
    again = pd.read_csv(tmp_path / "table-A1.csv")
    assert len(again) == 33 and again["ratio"].isna().sum() == 3
    assert "GiB" in (tmp_path / "table-A1.txt").read_text()
