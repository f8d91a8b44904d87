"""The choose verb, equal memory and the longest video: real folders, and what users type wrong."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.choosing import answers
from analysis.choosing.budget import plan, reasons
from analysis.choosing.choices import Question
from analysis.choosing.equal_memory import PLAIN, at, baseline, groups, kind, share_of_gib
from analysis.section import Method, Section
from analysis.sources.results import sections
from harness.benchmarks.made_up import write_results
from harness.system.errors import UserError
from tests.conftest import SHARED
from tests.support.geometry import configured

COMMAND = (
    "python -m harness method={} 'method.retention.budget=9 frames' suite=moviegen model=small "
    "suite.prompts=0:2 suite.frames=42 suite.source=bundled results_dir=results"
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods of made-up rows, BF16 among them."""
    folder = tmp_path_factory.mktemp("results")
    write_results(folder, 24, 3)
    return folder


def run(*words: str) -> int:
    return main(["choose", *words])


# ---- the verb ------------------------------------------------------------------------------------


def test_asked_nothing_it_shows_frontiers_and_recommendations(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--source", str(results)) == 0
    said = capsys.readouterr().out
    assert "what no other method beats" in said and "quality first" in said
    assert "BF16 reference baseline" in said and "Fastest option" in said


def test_a_question_is_answered_with_a_ranked_table(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--source", str(results), "--under", "ratio>=1.1", "--best", "ssim", "--format", "csv"]
    assert run(*words) == 0
    out, err = capsys.readouterr()
    table = [line.split(",") for line in out.splitlines()]
    assert table[0] == ["method", "n", "ratio", "SSIM"]
    assert [row[0] for row in table[1:]] == ["adaptive_int2", "age_int2", "bf16 (held against)"]
    assert float(table[1][3]) > float(table[2][3])
    assert "SSIM: adaptive_int2 less age_int2" in err


def test_none_is_an_answer(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--under", "peak_gib<=0.001", "--under", "runtime_s<=1.1x", "--best", "lpips"]
    assert run("--source", str(results), *words, "--format", "md") == 0
    said = capsys.readouterr().out
    assert "- no method keeps to all of it" in said
    assert "- peak_gib<=0.001 excludes 2 of 2" in said and "- nearest miss: a" in said


def test_a_frontier_on_any_axes(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--source", str(results), "--axes", "ratio,ssim", "--format", "csv") == 0
    names = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["method", "age_int2", "adaptive_int2", "bf16"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--under", "pek_gib<=8"], "did you mean peak_gib"),
        (["--best", "lpip"], "did you mean lpips"),
        (["--under", "peak"], "is no constraint"),
        (["--preset", "single"], "did you mean single_gpu"),
        (["--frontier", "balanced"], "choose balanced_practical"),
        (["--axes", "ratio,speed"], "there is no quantity 'speed'"),
        (["--at-ratio", "99"], "nothing holds 99x less than BF16 within 5%"),
        (["--suite", "other"], "--suite other: there is moviegen"),
        (["--format", "csv"], "do not go one after the other"),
        (["--source", "nowhere"], "no results below nowhere"),
    ],
)
def test_a_wrong_word_is_one_sentence(
    results: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert run("--source", str(results), *words) == 2
    out, err = capsys.readouterr()
    assert said in err and err.count("\n") == 1 and not out


def test_what_cannot_be_shown_is_said_beside_what_can(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--source", str(results), "--at-ratio", "99", "--preset", "max_compression") == 0
    said = capsys.readouterr().out
    assert "Maximum KV compression" in said and "not shown: moviegen" in said


# ---- equal memory --------------------------------------------------------------------------------


def sized(rows: dict[str, tuple[float, float]], **more: Any) -> Section:
    """Methods by name with their two ratios; BF16 holds 2 GiB."""
    methods = {
        name: Method(name, "", "", 8, settings=name.partition(" ")[2],
                     command=COMMAND.format(name.split()[0]))
        for name in rows
    }  # fmt: skip
    values = pd.DataFrame(
        {
            name: {"ratio": whole, "ratio_same": same, "kv_gib": 2 / whole, "ssim": 1 - whole / 50}
            for name, (whole, same) in rows.items()
        }
    ).T
    return Section("t", "moviegen", False, methods, values, pd.DataFrame(), "bf16", **more)


EQUAL = {
    "bf16": (1.0, 1.0),
    "window_bf16": (4.0, 1.0),
    "sink_window_bf16 retention.budget=10 frames": (4.1, 1.0),
    "snapkv_bf16": (4.15, 1.0),
    "rtn_int4": (3.2, 3.2),
    "prune_int4": (6.0, 3.2),
    "softprune_int4": (9.0, 9.0),
}


def test_methods_of_the_same_bytes_stand_side_by_side() -> None:
    found = groups(sized(EQUAL))
    assert [list(each.values.index) for each in found] == [
        ["softprune_int4"],
        ["prune_int4"],
        ["window_bf16", "sink_window_bf16 retention.budget=10 frames", "snapkv_bf16"],
    ]
    assert found[2].compared == (
        "SSIM: no prompt has both snapkv_bf16 and window_bf16, so they are not compared",
        "SSIM: no prompt has both snapkv_bf16 and sink_window_bf16 retention.budget=10 frames, so "
        "they are not compared",
    )
    assert found[2].missing == () and list(found[2].kinds.values()) == [*PLAIN, "drops frames"]
    assert [len(each.missing) for each in found[:2]] == [2, 2]
    assert found[0].kinds == {"softprune_int4": "pools frames"}


def test_one_size_is_asked_for_by_bytes_or_ratio() -> None:
    ours = sized(EQUAL)
    assert share_of_gib(ours, 0.5) == pytest.approx(1 / 4)
    assert set(at(ours, 1 / 4, "0.5 GiB").values.index) == set(groups(ours)[2].values.index)
    with pytest.raises(UserError, match=r"holds 20x within 5%: nearest are softprune_int4 \(0.222"):
        at(ours, 1 / 20, "20x")


def test_a_window_without_its_sink_is_a_sliding_window() -> None:
    name = "sink_window_int4 retention.budget=26 frames retention.sink=0"
    ours = sized({"bf16": (1.0, 1.0), name: (5.0, 3.2), "sink_window_int4": (5.0, 3.2)})
    assert kind(ours, name) == PLAIN[0]
    assert kind(ours, "sink_window_int4") == PLAIN[1]


@pytest.mark.parametrize("plain", PLAIN)
@pytest.mark.parametrize(("name", "ratio"), [("snapkv_bf16", 3.5), ("prune_int4", 5.143267)])
def test_the_command_of_a_plain_window_makes_one_of_that_size(
    name: str, ratio: float, plain: str
) -> None:
    from harness.planning.forecast import forecast
    from harness.planning.request import request, split
    from harness.planning.setting import resolve

    command = baseline(Method(name, "", "", 8, command=COMMAND.format(name)), ratio, plain)
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "harness"] and command.count("retention.budget") == 1
    setting, methods = resolve(request(*split(words[3:]), None))
    ((base, method),) = methods.items()
    assert forecast(base, method, setting).ratio_full_length == pytest.approx(ratio, rel=0.05)
    sink = method.retention.sink  # type: ignore[attr-defined]
    assert (sink == 0) == (plain == PLAIN[0])


def test_no_command_is_made_up() -> None:
    assert baseline(Method("a", "", "", 8), 4.0, PLAIN[0]) == ""
    tiny = Method("a_int4", "", "", 8, command=COMMAND.format("a_int4"))
    assert baseline(tiny, 60.0, PLAIN[0]) == ""  # 2 frames hold no sink and chunk


# ---- the longest video ---------------------------------------------------------------------------


def test_the_longest_video_is_planned_with_the_settings_of_the_run(results: Path) -> None:
    (ours,) = sections(results)
    small, large = ({each.method: each for each in plan(ours, gib)} for gib in (0.06, 0.09))
    seconds = {name: each.longest_s or 0.0 for name, each in small.items()}
    assert 0 < seconds["bf16"] < seconds["adaptive_int2"]
    assert all((large[name].longest_s or 0) > value for name, value in seconds.items())
    alone = replace(ours, methods={"bf16": ours.methods["bf16"]})
    assert plan(alone, 0.001)[0].longest == "none"
    assert plan(alone, 200.0)[0].longest == "over a day"
    runtime = ours.values["runtime_s"].to_dict()["bf16"]
    assert small["bf16"].seconds_per_s == pytest.approx(runtime / (165 / 16))


def test_longest_video_without_a_run_is_not_known() -> None:
    found = plan(sized({"bf16": (1.0, 1.0)}, seconds_generated=2.0), 24)
    assert found[0].longest == "-" and found[0].kv_gib_per_s == pytest.approx(1.0)
    assert np.isnan(found[0].seconds_per_s)
    assert reasons(found) == {
        "printed numbers only: there is no run whose settings could be planned": ["bf16"]
    }


def test_of_printed_numbers_seconds_are_shown_and_no_longest_video(
    capsys: pytest.CaptureFixture[str],
) -> None:
    observations = SHARED / "published" / "observations.parquet"
    if not observations.is_file():
        pytest.skip(f"the study's data is not here: {observations}")
    words = ["--observations", str(observations), "--suite", "moviegen", "--card-gib", "24"]
    assert run("--source", "published", *words) == 0
    said = capsys.readouterr().out
    (line,) = (each for each in said.splitlines() if each.startswith("BF16 "))
    assert line.split() == ["BF16", "-", "5.68", "1117"]  # 58.57 s, 11.247 GiB, 10.3125 s
    assert "no longest video of any: printed numbers only" in said


def test_a_damaged_request_and_a_failed_video_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(tmp_path, 6, 3)
    (broken,) = tmp_path.glob("*/*/age_int2-*/request.json")
    broken.write_text("{")
    (ours,) = (each for each in sections(tmp_path) if "adaptive_int2" in each.methods)
    failed = Method("adaptive_int2", "", "", 1, failures=("1 x oom: no memory",))
    found = plan(Section("t", "s", False, {"x": failed}, ours.values, ours.videos, None), 24)
    assert found[0].failures == ("1 x oom: no memory",)
    assert run("--source", str(tmp_path), "--card-gib", "0.02") == 0
    said = capsys.readouterr().out
    assert "request.json cannot be read" in said and "KV MiB per s" in said


def test_a_method_that_skips_is_never_shown_without_word_of_its_control(
    results: Path,
) -> None:
    """One method of the made-up runs becomes one that skips: its request alone decides that."""
    read = sections(results)[0]
    name = next(each for each in read.methods if each != read.reference)
    request = read.methods[name].request
    assert request is not None
    method = {**request.method, "reuse": configured("method=flowcache_slow")["method"]["reuse"]}
    skips = replace(read.methods[name], request=replace(request, method=method), skip_ratio=0.5)
    section = replace(read, methods={**read.methods, name: skips})
    for view in (answers.overview(section), answers.answer(section, Question("any"))):
        said = [note for grid in view for note in grid.notes]
        assert any(note.startswith(f"{name}: no control by uniform skip") for note in said)
