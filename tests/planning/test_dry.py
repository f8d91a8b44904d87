"""The dry run: what is left, what that will take, and what so many prompts can show."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.planning import detectable, past_runs
from harness.planning.dry_run import Outlook, cells, merged, outlooks, print_outlooks, shown, total
from harness.planning.run_memory import memory
from harness.prompts.suite import Prompt, Suite
from harness.results import observations
from harness.results.observations import Rows
from harness.results.run import Run
from harness.results.scores import SCORES, Result, Scored, Scores
from harness.results.video_files import write_lossless
from harness.system import machine
from harness.system.errors import UserError
from tests.support.commands import command
from tests.support.metrics import Grey
from tests.support.observations import observation
from tests.support.runs import run, without

HERE = machine.device_name(machine.choose_device("cpu"))
PIXELS = np.zeros((1, 2, 2, 3), np.uint8)


def method(tmp_path: Path, name: str = "rtn_int4", *words: str, **changes: Any) -> Run:
    return run(tmp_path, f"method={name}", *words, method_name=name, **changes)


def reference(tmp_path: Path, **changes: Any) -> Run:
    return method(tmp_path, "bf16", **changes)


def suite(num_prompts: int, name: str = "mine", num_frames: int = 6) -> Suite:
    prompts = tuple(Prompt(index, f"prompt {index}") for index in range(num_prompts))
    return Suite(name, prompts, "custom", "0" * 64, num_frames)


def make(this: Run, *indices: int, scored: bool = True, **changes: Any) -> None:
    """Leave what a command leaves of these videos."""
    with this.prepared():
        pass
    for item in this.items:
        if item.prompt.index not in indices:
            continue
        row = {"generate_s": 60.0, "device": HERE, "num_latent_frames": this.suite.num_frames}
        rows = Rows(this.folder / observations.OBSERVATIONS)
        rows.put(observation(item.prompt.index, run_id=this.run_id, **{**row, **changes}))
        if changes.get("failure") is None:
            write_lossless(this.packed(item), PIXELS, 16)
            for picture in (".mp4", ".png"):
                this.video(item).with_suffix(picture).touch()
        if scored:
            ids = (this.run_id, item.prompt.index, 0, this.reference_id)
            result = {Grey(): Result({"grey": 0.0}, None, "1", None)}
            Scores(this.folder / SCORES).put(Scored(*ids, None, None, None), result)


def of(found: list[Outlook], name: str) -> Outlook:
    (one,) = [each for each in found if each.method == name]
    return one


def look(this: Run, reference: Run) -> Outlook:
    return outlooks(this, reference)[-1]


# What is left


def test_a_run_is_missing_then_partial_then_done(tmp_path: Path) -> None:
    this, bf16 = method(tmp_path), reference(tmp_path)
    states = [look(this, bf16).state]
    for index in range(3):
        make(this, index)
        states.append(look(this, bf16).state)
    assert states == ["missing", "partial", "partial", "done"]


def test_videos_are_counted_as_made_left_failed_and_unscored(tmp_path: Path) -> None:
    this = method(tmp_path, suite=suite(5))
    make(this, 0)
    make(this, 1, scored=False)
    make(this, 2, failure="oom", scored=False)
    found = look(this, reference(tmp_path, suite=suite(5)))
    assert (found.state, found.num_made, len(found.asked)) == ("partial", 2, 5)
    assert found.failed == ("0002-0",)
    assert found.unscored == ("0001-0",)
    assert {"0003-0", "0004-0"} <= set(found.left)


def test_a_video_that_failed_and_is_not_tried_again_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    this = look(method(tmp_path, suite=suite(2)), reference(tmp_path, suite=suite(2)))
    stuck = replace(this, failed=("0001-0",), left=())
    assert stuck.state == "partial"
    print_outlooks([stuck])
    assert "1 failed before; run.retry=failed" in capsys.readouterr().out


def test_nothing_is_written(tmp_path: Path) -> None:
    make(method(tmp_path), 0)
    before = sorted(tmp_path.glob("**/*"))
    print_outlooks(outlooks(method(tmp_path), reference(tmp_path)))
    print_outlooks(outlooks(method(tmp_path, "kivi_int4"), reference(tmp_path)))
    assert sorted(tmp_path.glob("**/*")) == before


def test_rows_of_its_own_that_cannot_be_read_are_refused_as_by_the_run(tmp_path: Path) -> None:
    this = method(tmp_path)
    make(this, 0)
    (this.folder / observations.OBSERVATIONS).write_bytes(b"PAR1")
    with pytest.raises(UserError, match="is damaged"):
        look(this, reference(tmp_path))


# The reference that a job makes


def test_a_reference_is_work_once_until_it_is_there(tmp_path: Path) -> None:
    bf16 = reference(tmp_path)
    jobs = [method(tmp_path, name) for name in ("rtn_int4", "kivi_int4")]

    def rows() -> list[tuple[str, int]]:
        found = [each for job in jobs for each in outlooks(job, bf16)]
        return [(each.name, len(each.left)) for each in merged(found)]

    assert rows() == [("bf16 (reference)", 3), ("rtn_int4", 3), ("kivi_int4", 3)]
    make(bf16, 0, 1)
    assert rows()[0] == ("bf16 (reference)", 1)
    make(bf16, 2)
    assert rows() == [("rtn_int4", 3), ("kivi_int4", 3)]


def test_a_job_that_is_done_asks_for_no_reference(tmp_path: Path) -> None:
    this, bf16 = method(tmp_path), reference(tmp_path)
    make(this, 0, 1, 2)
    assert [each.method for each in outlooks(this, bf16)] == ["rtn_int4"]


def test_a_reference_that_is_a_job_is_one_row(tmp_path: Path) -> None:
    bf16 = reference(tmp_path)
    found = [*outlooks(method(tmp_path), bf16), *outlooks(bf16, bf16)]
    rows = merged(found)
    assert [(each.method, each.is_job, each.is_reference) for each in rows] == [
        ("bf16", True, True),
        ("rtn_int4", True, False),
    ]
    make(bf16, 0, 1, 2)
    assert [each.method for each in merged(outlooks(bf16, bf16))] == ["bf16"]


def test_jobs_that_ask_one_run_for_other_prompts_add_up(tmp_path: Path) -> None:
    prompts = suite(5).prompts
    found = []
    for chosen in (prompts[:3], prompts[2:]):
        few = replace(suite(5), prompts=chosen)
        found += outlooks(method(tmp_path, suite=few), reference(tmp_path, suite=few))
    rows = merged(found)
    assert [(each.method, len(each.left), each.num_prompts) for each in rows] == [
        ("bf16", 5, 5),
        ("rtn_int4", 5, 5),
    ]


# Minutes and disk


def test_minutes_are_those_of_its_own_videos_then_its_method_then_bf16(tmp_path: Path) -> None:
    this, bf16 = method(tmp_path), reference(tmp_path)
    found = look(this, bf16)
    assert (found.minutes, found.timed_by) == (None, "")
    assert any(reason.startswith("minutes are unknown") for reason in found.reasons)

    make(bf16, 0, generate_s=20.0)
    found = look(this, bf16)
    assert (found.minutes, found.timed_by) == (pytest.approx(3 * 20 / 60), "bf16")

    make(method(tmp_path, "rtn_int4", "method.key.bits=8"), 0, generate_s=40.0)
    found = look(this, bf16)
    assert (found.minutes, found.timed_by) == (pytest.approx(3 * 40 / 60), "method")

    make(this, 0, generate_s=120.0)
    found = look(this, bf16)
    assert (found.minutes, found.timed_by) == (pytest.approx(2 * 120 / 60), "own")
    assert not any("unknown" in reason for reason in found.reasons)


def test_an_odd_video_does_not_move_the_minutes(tmp_path: Path) -> None:
    bf16 = reference(tmp_path)
    for index, each in enumerate((10.0, 12.0, 900.0)):
        make(bf16, index, generate_s=each)
    assert look(method(tmp_path), bf16).video_s == 12


@pytest.mark.parametrize(
    "other",
    [
        {"suite": suite(3, num_frames=9)},
        {"model_name": "another"},
        {"words": ["model.window=3"]},
        {"words": ["attention=portable"]},
        {"words": ["integration=published"]},
    ],
)
def test_videos_of_another_shape_tell_nothing(tmp_path: Path, other: dict[str, Any]) -> None:
    changes = {name: value for name, value in other.items() if name != "words"}
    make(method(tmp_path, "rtn_int4", *other.get("words", ()), **changes), 0, 1)
    found = look(method(tmp_path), reference(tmp_path))
    assert (found.video_s, found.video_bytes) == (None, None)


def test_another_suite_tells_minutes_and_disk(tmp_path: Path) -> None:
    make(method(tmp_path, suite=suite(3, "other")), 0)
    found = look(method(tmp_path), reference(tmp_path))
    assert (found.video_s, found.timed_by) == (60, "method")
    assert found.video_bytes


def test_another_machine_tells_disk_but_no_minutes(tmp_path: Path) -> None:
    this = method(tmp_path)
    make(this, 0, device="NVIDIA H900")
    found = look(this, reference(tmp_path))
    assert found.minutes is None
    assert any("only on NVIDIA H900" in reason for reason in found.reasons)
    assert found.disk_bytes
    assert past_runs.seconds(this, this, None).value == 60  # nobody knows where it will run


def test_threads_do_not_make_another_machine(tmp_path: Path) -> None:
    this = method(tmp_path)
    make(this, 0, device=f"{HERE.rpartition(',')[0]}, 96 threads" if "," in HERE else HERE)
    assert look(this, reference(tmp_path)).timed_by == "own"


def test_disk_is_the_mean_of_packed_videos_with_all_their_files(tmp_path: Path) -> None:
    this, bf16 = method(tmp_path, suite=suite(6)), reference(tmp_path, suite=suite(6))
    make(this, 0, 1)
    for index, size in ((0, 1000), (1, 3000)):
        (this.folder / "videos" / f"000{index}-0.mkv").write_bytes(bytes(size))
        (this.folder / "videos" / f"000{index}-0.mp4").write_bytes(bytes(100))
        (this.folder / "trace" / f"000{index}-0.parquet").write_bytes(bytes(10))
    (this.folder / "videos" / "0002-0.npy").write_bytes(bytes(10**6))  # raw, to be packed
    found = look(this, bf16)
    assert found.video_bytes == 2110
    assert found.disk_bytes == 4 * 2110


def test_what_is_done_takes_nothing(tmp_path: Path) -> None:
    this = method(tmp_path)
    make(this, 0, 1, 2, generate_s=None)
    found = look(this, reference(tmp_path))
    assert (found.minutes, found.disk_bytes, found.reasons) == (0, 0, ())


def test_a_damaged_neighbour_is_left_out_and_said(tmp_path: Path) -> None:
    this, bf16 = method(tmp_path), reference(tmp_path)
    make(bf16, 0, generate_s=20.0)
    damaged = method(tmp_path, "rtn_int4", "method.key.bits=8")
    make(damaged, 0)
    path = damaged.folder / observations.OBSERVATIONS
    path.write_bytes(path.read_bytes()[:-20])
    found = look(this, bf16)
    assert (found.video_s, found.timed_by) == (20, "bf16")
    assert any(f"left out: {path} is damaged" in reason for reason in found.reasons)


def test_a_request_that_is_no_request_is_passed_over(tmp_path: Path) -> None:
    this = method(tmp_path)
    other = method(tmp_path, "rtn_int4", "method.key.bits=8")
    for broken in ("{", "[]", '{"suite": 3}', "{}"):
        make(other, 0)
        (other.folder / "request.json").write_text(broken)
        assert look(this, reference(tmp_path)).video_s is None


# Memory


def test_kv_and_peak_are_the_planners(tmp_path: Path) -> None:
    long = {"suite": suite(3, num_frames=42)}  # of few frames, the decode is the peak
    exact, small = memory(reference(tmp_path, **long)), memory(method(tmp_path, **long))
    model = reference(tmp_path).model
    tokens = 42 * model["latent_size"][0] * model["latent_size"][1] // 4
    bf16_bytes = 2 * 2 * model["dims"]["dim"] * model["dims"]["num_layers"] * tokens
    assert exact.kv_bytes == bf16_bytes
    assert small.kv_bytes == pytest.approx(bf16_bytes / 3.2)
    assert exact.peak_bytes and small.peak_bytes and exact.peak_bytes > small.peak_bytes
    assert exact.raw_bytes == 165 * 128 * 128 * 3


def test_the_contract_is_that_of_the_integration(tmp_path: Path) -> None:
    late = [
        "integration.free_before_decode=false",
        "integration.stream_decode=false",
        "integration.keep_previous=true",
    ]
    best, kept = memory(method(tmp_path)), memory(method(tmp_path, "rtn_int4", *late))
    assert best.peak_bytes and kept.peak_bytes and kept.peak_bytes > best.peak_bytes
    for words in (late[:1], [*late, "model.window=6"]):  # in between; not planned
        mixed = memory(method(tmp_path, "rtn_int4", *words))
        assert mixed.kv_bytes is not None
        assert mixed.peak_bytes is None
        assert any("peak is unknown" in reason for reason in mixed.reasons)


def test_the_studys_methods_are_counted_as_its_program_held_them(tmp_path: Path) -> None:
    true = {"model_name": "self_forcing", "suite": suite(3, "storyeval", 42)}
    words = ("model=self_forcing", "model.window=null")
    found = memory(method(tmp_path, "published/bf16", *words, **true))
    assert found.kv_bytes == 30 * 2 * 42 * 1560 * 1536 * 2
    changed = method(tmp_path, "published/bf16", *words, **{**true, "settings": "key.bits=8"})
    assert memory(changed).kv_bytes is None


@pytest.mark.parametrize(
    ("words", "changes", "reason"),
    [
        (["attention=reference"], {}, "attention=reference is not planned"),
        (["integration=published"], {}, "plan integration=published"),
    ],
)
def test_what_cannot_be_planned_is_unknown_with_a_reason(
    tmp_path: Path, words: list[str], changes: dict[str, Any], reason: str
) -> None:
    this = method(tmp_path, "rtn_int4", *words, **changes)
    found = look(this, reference(tmp_path))
    assert (found.kv_bytes, found.peak_bytes) == (None, None)
    assert any(reason in each for each in found.reasons)
    assert found.raw_bytes


@pytest.mark.parametrize(
    ("words", "changes", "reason"),
    [
        ([], {"method": {"_target_": "nope.Nope"}}, "there is no class nope.Nope"),
        (["method.key.group=7"], {}, "does not divide"),
        (
            [],
            {"method": {"_target_": "builtins.int"}},
            "method builds int: give a harness.api.Method",
        ),
        (
            [],
            {"attention": {"_target_": "builtins.int"}},
            "attention builds int: give a harness.cache.attention.Auto or",
        ),
    ],
)
def test_what_a_run_refuses_its_dry_run_refuses(
    tmp_path: Path, words: list[str], changes: dict[str, Any], reason: str
) -> None:
    this = method(tmp_path, "rtn_int4", *words, **changes)
    with pytest.raises(UserError, match=reason):
        look(this, reference(tmp_path))


# What prompts can show


@pytest.mark.parametrize(
    ("num_prompts", "num_comparisons", "sd"),
    [
        # z(0.9875) = 2.2414, z(0.8) = 0.8416: 3.0830 / sqrt(32)
        (32, 2, 0.545),
        # z(1 - 0.05 / 64) = 3.1626: 4.0042 over sqrt(32) and over 10
        (32, 32, 0.708),
        (100, 32, 0.400),
        # z(0.975) = 1.9600: 2.8016 / 4
        (16, 1, 0.700),
    ],
)
def test_the_smallest_difference_is_as_by_hand(
    num_prompts: int, num_comparisons: int, sd: float
) -> None:
    assert detectable.detectable(num_prompts, num_comparisons) == pytest.approx(sd, abs=5e-4)
    assert f"about {sd:.2f} s.d." in detectable.sentence(num_prompts, num_comparisons)


def test_ten_prompts_cannot_survive_thirty_two_comparisons() -> None:
    assert float(detectable.smallest_p(10)) == pytest.approx(0.00195, abs=1e-5)
    assert float(detectable.level(32)) == pytest.approx(0.00156, abs=1e-5)
    assert "10 prompts cannot show any difference" in detectable.sentence(10, 32)
    assert "at least 11 could" in detectable.sentence(10, 32)
    assert "detectable" in detectable.sentence(11, 32)


@pytest.mark.parametrize("num_comparisons", [1, 2, 5, 32, 1000])
def test_the_fewest_prompts_are_just_enough(num_comparisons: int) -> None:
    least = detectable.least_prompts(num_comparisons)
    assert 2 / 2**least <= 0.05 / num_comparisons < 2 / 2 ** (least - 1)


def test_the_test_finds_that_difference_as_often_as_is_said() -> None:
    """One comparison of 14 prompts, by all sign flips: a power near 0.8, rather less than more."""
    num_prompts = 14
    d = detectable.detectable(num_prompts, 1)
    generator = np.random.default_rng(0)
    differences = generator.standard_normal((400, num_prompts)) + d
    bits = np.arange(2**num_prompts)[:, None] >> np.arange(num_prompts) & 1
    sums = np.abs((2.0 * bits - 1) @ differences.T)
    p = (sums >= np.abs(differences.sum(axis=1)) - 1e-9).mean(axis=0)
    assert 0.65 < (p <= 0.05).mean() < 0.85


def test_only_methods_of_one_table_are_compared(tmp_path: Path) -> None:
    bf16 = reference(tmp_path, suite=suite(32))
    jobs = [method(tmp_path, name, suite=suite(32)) for name in ("rtn_int4", "kivi_int4")]
    far = {"suite": suite(10, "other")}
    found = [
        *outlooks(bf16, bf16),
        *(each for job in jobs for each in outlooks(job, bf16)),
        *outlooks(method(tmp_path, **far), reference(tmp_path, **far)),
    ]
    tables = {each.table for each in found}
    assert len(tables) == 2
    near = [each for each in merged(found) if each.suite == "mine"]
    assert shown(near) == [detectable.sentence(32, 2)]
    windowed = method(tmp_path, "rtn_int4", "model.window=6")
    assert look(windowed, bf16).table not in tables


def test_a_reference_alone_is_compared_with_nothing(tmp_path: Path) -> None:
    bf16 = reference(tmp_path)
    assert shown(outlooks(bf16, bf16)) == []


# The table


def test_an_outlook_travels_through_a_file(tmp_path: Path) -> None:
    make(method(tmp_path), 0)
    for each in outlooks(method(tmp_path), reference(tmp_path)):
        assert Outlook.from_json(json.loads(json.dumps(asdict(each)))) == each


def test_the_table_adds_up_and_ends_with_nothing_was_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bf16 = reference(tmp_path)
    make(bf16, 0, 1, 2, generate_s=300.0)
    jobs = [method(tmp_path, name) for name in ("rtn_int4", "kivi_int4")]
    make(jobs[0], 0, generate_s=600.0)
    found = [each for job in (bf16, *jobs) for each in outlooks(job, bf16)]
    print_outlooks(found)
    lines = capsys.readouterr().out.splitlines()
    row = {line.split()[0]: line.split() for line in lines if line}
    assert row["bf16"][1:6] == ["done", "3/3", "0", "0", "-"]
    assert row["rtn_int4"][1:7] == ["partial", "1/3", "2", "0", "20", "own"]
    assert row["kivi_int4"][1:7] == ["missing", "0/3", "3", "0", "15", "bf16"]
    assert any("left: 5 videos; minutes, one video after another: 35;" in line for line in lines)
    assert detectable.sentence(3, 2) in lines
    assert lines[-1] == "nothing was run"
    for meaning in ("minutes", "from", "KV", "disk"):
        assert any(line.startswith(f"{meaning}: ") for line in lines)


def test_what_is_unknown_is_not_summed_as_nothing(tmp_path: Path) -> None:
    other = {"suite": suite(3, num_frames=9)}
    make(reference(tmp_path), 0)
    known = look(method(tmp_path), reference(tmp_path))
    unknown = look(method(tmp_path, **other), reference(tmp_path, **other))
    assert "minutes, one video after another: 3.00 and 1 runs unknown" in total([known, unknown])
    assert "minutes, one video after another: unknown" in total([unknown])
    assert cells(unknown)[5:7] == ["unknown", ""]
    assert cells(unknown)[-1] == "?"


def test_printing_imports_no_torch() -> None:
    code = "import harness.planning.dry_run; harness.planning.dry_run.print_outlooks([])"
    said = without({"torch", "pandas", "pyarrow"}, code)
    assert said.splitlines()[-1] == "nothing was run"


def test_a_true_run_is_seen_as_it_is(tmp_path: Path) -> None:
    done = command(
        "method=rtn_int4", "suite=moviegen", "suite.source=bundled", "suite.num_prompts=2",
        "suite.frames=6", "run.device=cpu", "track=disabled", f"results_dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    this, bf16 = (
        Run.from_folder(next(tmp_path.glob(f"moviegen/small/{name}-*")))
        for name in ("rtn_int4", "bf16")
    )
    (found,) = outlooks(this, bf16)
    assert (found.state, found.num_made) == ("done", 2)
    rows = pd.read_parquet(this.folder / observations.OBSERVATIONS)
    assert set(rows["kv_stored_bytes"]) == {found.kv_bytes}

    more = replace(this.suite, prompts=(*this.suite.prompts, Prompt(7, "a seventh")))
    before, found = outlooks(replace(this, suite=more), replace(bf16, suite=more))
    for each in (before, found):
        assert (each.state, each.left, each.timed_by) == ("partial", ("0007-0",), "own")
    assert found.minutes == pytest.approx(median(rows["generate_s"]) / 60)
    videos = [path for path in (this.folder / "videos").iterdir() if path.is_file()]
    traces = list((this.folder / "trace").iterdir())
    assert found.video_bytes == sum(path.stat().st_size for path in videos + traces) / 2
    assert math.isclose(before.raw_bytes or 0, 21 * 128 * 128 * 3)
