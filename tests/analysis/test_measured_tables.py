"""The study's tables from our own results: order, intervals, marks, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import statistics
from analysis.__main__ import main
from analysis.section import VIDEO, Method, Section, Trace
from analysis.study.across import correlation, made
from analysis.study.spec import chosen
from harness.results.quantities import QUANTITIES
from harness.system.errors import UserError
from harness.system.text_table import Grid
from tests.support.latex import check

NUM = 12  # prompts; the fewest with which three methods can be told from BF16 are seven
FLOOR, AGAIN = "bf16 attention=tokens", "bf16 rerun=1"
METHODS = {
    "bf16": ("", "BF16"),
    AGAIN: ("", "BF16"),
    FLOOR: ("", "BF16"),
    "mine_int4": ("", "Mine"),
    "published/prq_int2": ("PRQ_INT2", "PRQ"),
    "published/rtn_int4": ("RTN_INT4", "RTN"),
    "published/flowcache_native": ("FLOWCACHE_NATIVE", "FlowCache"),
}
# What a method has on every prompt, to which the prompt adds its own.
VALUES: Mapping[str, Mapping[str, float]] = {
    "bf16": {"ratio": 1, "kv_gib": 0.004, "peak_gib": 2.0, "runtime_s": 10.0, "imaging": 0.7},
    AGAIN: {"ratio": 1, "peak_gib": 2.0, "runtime_s": 10.5, "ssim": 1.0, "imaging": 0.7},
    FLOOR: {"ratio": 1, "peak_gib": 2.0, "runtime_s": 12.0, "ssim": 0.95, "imaging": 0.7},
    "mine_int4": {"ratio": 4, "peak_gib": 1.0, "runtime_s": 5.0, "ssim": 0.97, "imaging": 0.7},
    "published/prq_int2": {"ratio": 2, "runtime_s": 20.0, "ssim": 0.9, "imaging": 0.6},
    "published/rtn_int4": {"ratio": 3.2, "runtime_s": 12.5, "ssim": 0.5, "imaging": 0.4},
    "published/flowcache_native": {"ratio": 1, "runtime_s": 8.0, "ssim": 0.8, "imaging": 0.65},
}


def section(
    names: Sequence[str] = tuple(METHODS),
    suite: str = "moviegen",
    values: Mapping[str, Mapping[str, float]] = VALUES,
    num: int = NUM,
) -> Section:
    """A hand-made section: every second prompt a little better, the same for all methods."""
    index = pd.MultiIndex.from_product([names, range(num), [0]], names=["method", *VIDEO])
    columns = [key for key in QUANTITIES if any(key in values[name] for name in names)]
    rows = [
        [values[name].get(key, np.nan) + wobble(name, key, i) for key in columns]
        for name in names
        for i in range(num)
    ]
    videos = pd.DataFrame(rows, index, columns, float)
    grouped = videos.groupby(level="method", sort=False)
    found = grouped.mean()
    for key in columns:
        if QUANTITIES[key].over == "max":
            found[key] = grouped[key].max()
    reference = "bf16" if "bf16" in names else None
    return Section(
        title=f"{suite}, toy, full history, bundled prompts",
        suite=suite,
        is_published=False,
        methods={
            name: Method(
                name,
                *METHODS[name],
                num_videos=num,
                run_id=f"id{i}",
                command=f"python -m harness method={name} suite={suite}",
                reasons={"lpips": "LPIPS has no backbone: type python -m harness fetch weights"},
            )
            for i, name in enumerate(names)
        },
        values=found,
        videos=videos,
        reference=reference,
        floors=[name for name in (FLOOR,) if name in names],
        reruns=[name for name in (AGAIN,) if name in names],
        phases="text, denoise, commit and decode",
    )


def wobble(name: str, key: str, prompt: int) -> float:
    """What tells prompts apart; of methods other than BF16 a little of their own too."""
    if key in ("ratio", "kv_gib"):
        return 0.0
    own = 0.0 if name == "bf16" else 0.001 * ((prompt * 7 + len(name)) % 5 - 2)
    return 0.01 * (prompt % 2) + own


def table(name: str, *sections: Section, **how: bool) -> Grid:
    (grid,), _ = made(chosen(name), sections, how.get("statistics"), how.get("split", False))
    return grid


def cells(grid: Grid) -> dict[str, dict[str, str]]:
    return {line[0]: dict(zip(grid.header, line, strict=True)) for line in grid.lines}


def said(grid: Grid) -> str:
    return "\n".join(grid.notes)


# ---- rows --------------------------------------------------------------------------------------


def test_rows_of_the_study_come_first_in_its_order_and_bf16_again_beneath_bf16() -> None:
    grid = table("2", section())
    assert [line[0] for line in grid.lines] == [
        "bf16",
        f"{FLOOR} (noise floor)",
        f"{AGAIN} (BF16 again)",
        "published/flowcache_native",
        "published/prq_int2",
        "mine_int4",
        "published/rtn_int4",  # no row of Table 2; it is one of A1
    ]
    assert "rows of the study that are not here: FLOWCACHE_SOFT_PRUNE_INT4" in said(grid)
    rows = [line[0] for line in table("A1", section()).lines]
    assert rows.index("published/rtn_int4") < rows.index("published/prq_int2")
    assert rows[-1] == "mine_int4"


def test_two_runs_of_one_row_are_both_shown() -> None:
    one = section()
    twin = replace(one.methods["published/rtn_int4"], name="mine_int4")
    both = replace(one, methods={**one.methods, "mine_int4": twin})
    rows = [line[0] for line in table("A1", both).lines]
    # As they come, where the row stands.
    assert rows.index("mine_int4") + 1 == rows.index("published/rtn_int4")


def test_no_quantity_is_dropped() -> None:
    everything = {name: dict.fromkeys(QUANTITIES, 0.5) for name in METHODS}
    (systems, quality), _ = made(chosen("A1,A2"), [section(values=everything)], None, False)
    shown = {*systems.header, *quality.header}
    assert {each.heading for each in QUANTITIES.values()} <= shown
    at = quality.header.index("PSNR dB")
    assert quality.header[at + 1 : at + 3] == ["PSNR frame mean dB", "PSNR rest dB"]


# ---- numbers -----------------------------------------------------------------------------------


def test_differences_are_paired_and_in_percent_of_bf16() -> None:
    found = cells(table("2", section()))
    assert found["bf16"]["runtime vs BF16"] == ""
    # What BF16 made again differs by, without a mark: nothing is tested of it.
    assert found[f"{FLOOR} (noise floor)"]["runtime vs BF16"] == "+20.0% [+20.0, +20.0]"
    # 5.0 against 10.005 on the mean of its prompts; the same prompt's share cancels.
    assert found["mine_int4"]["runtime vs BF16"].startswith("-50.0% [-50.0, -50.0]*")
    assert found["published/prq_int2"]["runtime vs BF16"].startswith("+99.9% [+99.9, +100.0]*")
    assert found["mine_int4"]["ratio"] == "4.00"
    assert found["bf16"]["n"] == "12"


def test_marks_no_larger_than_what_bf16_made_again_differs_by_are_named() -> None:
    slow = {"bf16": 10.0, AGAIN: 12.0, "mine_int4": 11.0, "published/prq_int2": 20.0}
    one = section(tuple(slow), values={name: {"runtime_s": s} for name, s in slow.items()})
    (note,) = [note for note in table("2", one).notes if "made again" in note]
    assert note == (
        "runtime: BF16 made again differs from bf16 by 2 s, so marks of no larger differences may "
        "be the machine's: mine_int4"
    )
    alone = replace(one, reruns=())
    assert not any("made again" in note for note in table("2", alone).notes)


def test_values_differences_and_intervals_are_those_of_the_statistics() -> None:
    one = section()
    found = cells(table("4", one))
    for name in ("mine_int4", "published/rtn_int4"):
        each = statistics.differences(one, "imaging")[name]
        assert each.bounds is not None
        text = f"{each.mean:+.3f} [{each.bounds[0]:+.3f}, {each.bounds[1]:+.3f}]"
        assert found[name]["imaging vs BF16"] == text + "*" * each.is_supported
        own = statistics.estimates(one, "ssim")[name]
        assert own.bounds is not None
        assert found[name]["SSIM"].startswith(f"{own.mean:.3f} [{own.bounds[0]:.3f}, ")


def test_a_mark_stands_only_where_the_corrected_test_supports_it() -> None:
    found = cells(table("4", section()))
    assert found["published/rtn_int4"]["imaging vs BF16"].endswith("*")
    assert not found["mine_int4"]["imaging vs BF16"].endswith("*")  # 0.7 on both sides
    few = cells(table("4", section(num=5)))  # 2 / 2^5 is no 0.05, however large the difference
    assert not any(cell.endswith("*") for row in few.values() for cell in row.values())
    assert "5 prompts cannot show any difference" in said(table("4", section(num=5)))


def test_a_fidelity_is_marked_where_it_is_worse_than_the_noise_floor_and_not_where_better() -> None:
    grid = table("4", section())
    found = cells(grid)
    assert found["published/rtn_int4"]["SSIM"].endswith("*")
    assert found["published/prq_int2"]["SSIM"].endswith("*")
    better = statistics.differences(section(), "ssim")["mine_int4"]
    assert better.is_supported and better.mean > 0
    assert not found["mine_int4"]["SSIM"].endswith("*")
    assert found["bf16"]["SSIM"] == "NA"
    assert not any("SSIM vs" in heading for heading in grid.header)
    assert f"worse than the noise floor, {FLOOR}" in said(grid)


def test_without_a_noise_floor_fidelity_has_no_marks_and_the_command_is_named() -> None:
    grid = table("4", section([name for name in METHODS if name != FLOOR]))
    assert not any(row["SSIM"].endswith("*") for row in cells(grid).values())
    assert "experiment=noise_floor suite=moviegen" in said(grid)


def test_counted_bytes_and_largest_peaks_have_no_interval() -> None:
    grid = table("2", section())
    for row in cells(grid).values():
        assert "[" not in row["ratio"] + row["KV GiB"] + row["peak GiB"]
    assert "ratio, KV: counted bytes, so no interval" in said(grid)
    assert "the largest of all videos" in said(grid)


def test_small_sizes_keep_three_digits() -> None:
    assert cells(table("2", section()))["bf16"]["KV GiB"] == "0.00400"
    big = {**VALUES, "bf16": {**VALUES["bf16"], "kv_gib": 11.2}}
    assert cells(table("2", section(values=big)))["bf16"]["KV GiB"] == "11.200"


def test_plain_has_values_alone() -> None:
    grid = table("4", section(), statistics=False)
    assert not any("[" in cell or "*" in cell for line in grid.lines for cell in line)
    assert grid.header == ["method", "n", "SSIM", "imaging"]
    assert "in brackets" not in said(grid)


def test_csv_has_intervals_in_columns_of_their_own() -> None:
    grid = table("4", section(), split=True)
    found = cells(grid)["published/rtn_int4"]
    assert found["imaging"] == "0.405" and found["imaging vs BF16 supported"] == "yes"
    assert float(found["imaging vs BF16 low"]) <= float(found["imaging vs BF16"])
    assert float(found["imaging vs BF16 p Holm"]) < 0.05
    assert found["SSIM below floor"] == "yes"
    assert cells(grid)["bf16"]["imaging vs BF16 supported"] == ""
    assert not any("[" in cell for line in grid.lines for cell in line)


# ---- notes -------------------------------------------------------------------------------------


def test_beneath_stand_phases_number_of_comparisons_and_what_made_each_row() -> None:
    grid = table("2", section())
    assert "seconds: text, denoise, commit and decode" in said(grid)
    assert "4 comparisons on 12 prompts" in said(grid)
    shared, *runs = grid.made_by
    assert shared == "python -m harness suite=moviegen, and by run"
    assert f"id{list(METHODS).index('mine_int4')}  method=mine_int4" in runs
    assert len(runs) == len(METHODS)
    check(grid.latex())


def test_words_of_a_command_stay_whole() -> None:
    one = section(["bf16", "mine_int4"])
    for number, name in enumerate(one.methods, 6):
        command = f"python -m harness method={name} size='{number} frames' suite=moviegen"
        told = replace(one.methods[name], command=command)
        one = replace(one, methods={**one.methods, name: told})
    assert table("A2", one).made_by == [
        "python -m harness suite=moviegen, and by run",
        "id0  method=bf16 size='6 frames'",
        "id1  method=mine_int4 size='7 frames'",
    ]
    assert table("A2", section(["bf16"])).made_by == [
        "id0  python -m harness method=bf16 suite=moviegen"
    ]


def test_what_is_missing_is_left_out_with_its_reason() -> None:
    grid = table("4", section())
    assert "LPIPS" not in grid.header
    assert "no LPIPS: LPIPS has no backbone: type python -m harness fetch weights" in said(grid)
    assert "no PSNR, PSNR frame mean, PSNR rest" in said(grid)
    assert said(grid).count("has no backbone") == 1


def test_a_method_that_lacks_a_value_says_why() -> None:
    values = {**VALUES, "mine_int4": {"ratio": 4.0, "ssim": 0.9}}
    one = section(values=values)
    told = replace(one.methods["mine_int4"], reasons={"imaging": "no weights for MUSIQ"})
    one = replace(one, methods={**one.methods, "mine_int4": told})
    grid = table("4", one)
    assert cells(grid)["mine_int4"]["imaging"] == "NA"
    assert "no imaging of mine_int4: no weights for MUSIQ" in said(grid)


def test_unfinished_failed_and_mixed_runs_are_said() -> None:
    notes = ["mixed: rows of 2 machines (A; B)", "mine_int4: 3 of 12 videos failed (oom)"]
    one = replace(section(), notes=notes)
    keep = [label for label in one.videos.index if label[0] != "mine_int4" or label[1] < 9]
    grid = table("4", replace(one, videos=one.videos.loc[keep]))
    for note in notes:
        assert note in said(grid)
    assert "fewer prompts than 12: mine_int4 9" in said(grid)


def test_without_bf16_there_are_values_and_no_differences() -> None:
    names = ["mine_int4", "published/rtn_int4"]
    one = replace(section(names), notes=["no BF16 run among them"])
    (systems, quality, derived), reasons = made(
        chosen("2,4,derived-moviegen"), [one], None, split=False
    )
    assert not reasons
    assert not any("vs BF16" in heading for grid in (systems, quality) for heading in grid.header)
    assert not any("BF16" in heading or "drop" in heading for heading in derived.header)
    # What has no difference has an interval of its own.
    assert cells(quality)["mine_int4"]["imaging"].startswith("0.705 [0.70")
    assert cells(systems)["mine_int4"]["runtime s"].startswith("5.0 [5.0")
    assert "no BF16 run among them" in said(systems)


@pytest.mark.parametrize("name", ["bf16", "mine_int4"])
def test_one_method_only(name: str) -> None:
    grids, reasons = made(chosen(None), [section([name])], None, split=False)
    shown = {grid.name for grid in grids}
    assert {"1", "2", "A1", "derived-moviegen", "readme-moviegen"} <= shown
    assert {"7", "8", "T1", "B1"} <= set(reasons)
    for grid in grids:
        check(grid.latex())
    by_name = {grid.name: grid for grid in grids}
    assert [line[0] for line in by_name["2"].lines] == [name]


def test_a_run_without_any_value_is_no_table() -> None:
    one = section()
    empty = replace(one, values=one.values.iloc[:, :0], videos=one.videos.iloc[:0, :0])
    grids, reasons = made(chosen(None), [empty], None, split=False)
    assert [grid.name for grid in grids] == ["1"]
    assert "none of its rows or columns" in reasons["A1"]


# ---- tables of two suites ----------------------------------------------------------------------


def test_tables_of_two_suites_from_both() -> None:
    both = [section(), section(suite="storyeval")]
    grids, reasons = made(chosen("6,7,8,T1"), both, None, split=False)
    assert [grid.name for grid in grids] == ["6", "7", "T1"]
    assert "no drift last: not measured" in reasons["8"]
    fronts, r, beside = grids
    assert {line[0] for line in fronts.lines} == {"MovieGen", "StoryEval"}
    assert list(fronts.lines[0][:3]) == ["MovieGen", "imaging quality", "mine_int4"]
    assert dict(line[:2] for line in r.lines)["runtime"] == "1.0000"
    assert "MovieGen runtime vs BF16" in beside.header and "StoryEval n" in beside.header
    # What both suites share is said once.
    assert sum("in brackets" in note for note in beside.notes) == 1


def test_methods_of_one_suite_only_are_named() -> None:
    both = [section(), section([x for x in METHODS if x != "mine_int4"], suite="storyeval")]
    grid = table("T1", *both)
    assert "mine_int4" not in [line[0] for line in grid.lines]
    assert "in one of the suites only: mine_int4" in said(grid)


def test_tables_of_two_suites_from_one() -> None:
    grids, reasons = made(chosen("6,7,8,T1"), [section()], None, split=False)
    assert [grid.name for grid in grids] == ["6"]
    assert "nothing of storyeval" in said(grids[0])
    for name in ("7", "8", "T1"):
        assert reasons[name] == "it needs moviegen and storyeval; here is only moviegen"


def test_suites_that_cannot_be_told_apart_are_not_put_together() -> None:
    three = [section(), section(), section(suite="storyeval")]
    grids, reasons = made(chosen("7,A1"), three, None, split=False)
    assert "once each" in reasons["7"]
    assert [grid.name for grid in grids] == ["A1", "A1"]


def test_weak_methods_from_results() -> None:
    names = ["bf16", "published/rtn_int4", "mine_int4"]
    values = {name: {**VALUES[name], "drift_last": 0.5} for name in names}
    weak = replace(
        section(names, values=values),
        methods={
            **section(names).methods,
            "published/rtn_int4": Method("published/rtn_int4", "RTN_INT2", "RTN", NUM),
        },
    )
    both = [
        weak,
        replace(weak, suite="storyeval", title=weak.title.replace("moviegen", "storyeval")),
    ]
    grid = table("8", *both)
    assert [line[0] for line in grid.lines] == ["published/rtn_int4"]
    assert "comment" not in grid.header  # the study's words are on its own rows
    assert "rows of the study that are not here: SPATIAL_MIXED" in said(grid)


def test_a_suite_of_ours_has_the_tables_of_all_methods() -> None:
    grids, _ = made(chosen(None), [section(suite="vbench")], None, split=False)
    assert [grid.name for grid in grids] == ["1", "A1", "A2"]
    assert "Vbench" in grids[1].title or "vbench" in grids[1].title


def test_quality_by_second_and_largest_memory_from_curves_and_traces() -> None:
    seconds = np.array([0.5, 1.5])
    curves = pd.DataFrame({"mine_int4": [0.7, 0.65], "bf16": [0.7, 0.7]}, seconds)
    gib = {
        name: Trace(seconds, np.array([0.25, own])) for name, own in (("bf16", 2), ("mine_int4", 1))
    }
    small = {name: Trace(seconds, each.gib / 1000) for name, each in gib.items()}
    one = replace(
        section(),
        curves={"imaging": curves},
        traces={"memory": gib, "kv": small},
        traced="prompt 3",
    )
    grids, reasons = made(chosen("drift-moviegen,traces-moviegen"), [one], None, split=False)
    assert not reasons
    assert grids[0].lines == [["bf16", "0.700", "0.700"], ["mine_int4", "0.700", "0.650"]]
    assert grids[0].header == ["method", "0.5 s", "1.5 s"]
    assert grids[1].header == ["method", "memory GiB", "KV GiB"]
    assert grids[1].lines[1] == ["mine_int4", "1.00000", "0.00100"]
    assert "one video: prompt 3" in said(grids[1])
    _, reasons = made(chosen("drift-moviegen,traces-moviegen"), [section()], None, split=False)
    assert reasons["drift-moviegen"] == "no imaging: not measured"
    assert reasons["traces-moviegen"] == "no run of moviegen has a trace"


def test_a_correlation_by_hand() -> None:
    first = pd.Series({"a": 1.0, "b": 2.0, "c": 4.0, "d": np.inf, "e": 3.0})
    second = pd.Series({"c": 8.0, "b": 4.0, "a": 2.0, "d": 1.0, "f": 9.0})
    assert correlation(first, second) == (pytest.approx(1.0), 3)
    r, n = correlation(first.iloc[:2], second)
    assert np.isnan(r) and n == 2
    assert np.isnan(correlation(first * 0 + 1, second)[0])


# ---- the command -------------------------------------------------------------------------------


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.verbs.tables.source", lambda words: [section()])


@pytest.mark.usefixtures("ours")
def test_what_cannot_be_shown_is_said_and_the_rest_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["tables", "--table", "2,7"]) == 0
    out = capsys.readouterr().out
    assert "Table 2." in out
    assert out.endswith("not shown: 7: it needs moviegen and storyeval; here is only moviegen\n")


@pytest.mark.usefixtures("ours")
def test_nothing_to_show_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "--table", "7,8"]) == 2
    assert capsys.readouterr().err == (
        "error: no table could be shown: 7: it needs moviegen and storyeval; here is only "
        "moviegen\n"
    )


@pytest.mark.usefixtures("ours")
def test_formats(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["tables", "--table", "A1", "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("method,n,ratio") and "[" not in out
    assert "in brackets" in err and "method=mine_int4" in err
    assert main(["tables", "--table", "A1,A2", "--format", "csv"]) == 2
    assert "--out <folder>" in capsys.readouterr().err
    assert main(["tables", "--table", "A1,7", "--format", "latex"]) == 0
    latex = capsys.readouterr().out
    assert "% not shown: 7" in latex
    check(latex)
    assert main(["tables", "--plain", "--table", "A2", "--out", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / "table-A2.txt").read_text().startswith("Table A2.")
    (tmp_path / "file").write_text("")
    assert main(["tables", "--table", "A2", "--out", str(tmp_path / "file")]) == 2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--table", "readme"], "did you mean readme-moviegen"),
        (["--table", "99"], "there are 1, 2, 3"),
        (["--table", ","], "no such table"),
        (["--statistics", "--plain"], "not allowed with"),
    ],
)
def test_words_that_are_not_understood(
    words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["tables", *words])
    except SystemExit as left:
        code = int(str(left.code))
    assert code == 2
    assert why in capsys.readouterr().err


def test_an_empty_folder_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    from analysis.sources.results import sections

    with pytest.raises(UserError):
        sections(tmp_path)
    assert main(["tables", "--source", str(tmp_path)]) == 2
