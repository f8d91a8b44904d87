"""Which control a method is held against, and the command that makes a missing one."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra.utils import instantiate

from analysis.controls.fewer_steps import shorter, steps_of_cost, with_fewer_steps
from analysis.controls.pairs import Pair, notes, pairs
from analysis.section import Method, Section
from analysis.verbs.controls import tables
from harness.api import Method as Parts
from harness.config.compose import configured
from harness.models.preset import VideoModel
from harness.results.command_of_run import Origin
from harness.results.video_files import write_raw
from harness.system.errors import UserError
from tests.support.runs import run

MODEL = "model=skyreels_tiny"
FRAMES = 25
FRAME_BYTES = 2 * 36_864  # of two guidance branches
TOKEN = 132 / 128  # a single token has an origin of 4 bytes beside 128 of key and value
UNIFORM = (
    "~method.reuse",
    "+method.reuse={_target_:methods.reuse.uniform.Uniform,ratio:0.46}",
)
NEWEST = "method.retention={_target_:methods.retention.window.Window}"
WINDOW = (
    "~method.retention",
    "+method.retention={_target_:methods.retention.window.Window,budget:15 frames,sink:0}",
)


def row(
    tmp_path: Path, *words: str, frames: float = FRAMES, skipped: float = 0.0, overhead: float = 1.0
) -> tuple[Method, dict[str, float]]:
    """Return a method as results describe it, and its values.

    frames: held at the end. skipped: ratio. overhead: bytes held over those of keys and values.
    """
    name = words[0].removeprefix("method=")
    request = run(tmp_path, MODEL, *words, method_name=name, model_name="skyreels_tiny")
    settings = " ".join(word.replace("method.", "", 1) for word in words[1:])
    request = replace(request, settings=settings)
    command = Origin.of_run(request.folder, None, request, ()).typed({(0, 0)})
    method = Method(
        f"{name} {settings}".strip(), "", "x", 6, settings=settings, folder=request.folder,
        command=command, skip_ratio=skipped, request=request,
    )  # fmt: skip
    held = frames * FRAME_BYTES * overhead
    return method, {
        "ratio": FRAMES * FRAME_BYTES / held,
        "ratio_same": 1 / overhead,
        "kv_gib": held / 2**30,
        "runtime_s": 3.0,
    }


def section(*rows: tuple[Method, dict[str, float]]) -> Section:
    """Return a section of BF16 first; PSNR of each later method is 1 dB higher."""
    names = [method.name for method, _ in rows]
    index = pd.MultiIndex.from_tuples(
        [(name, prompt, 0) for name in names for prompt in range(6)],
        names=["method", "prompt_index", "sample"],
    )
    psnr = [30.0 + i + prompt for i, _ in enumerate(names) for prompt in range(6)]
    values = pd.DataFrame([values for _, values in rows], index=names)
    values["psnr_db"] = [32.5 + i for i, _ in enumerate(names)]
    return Section(
        "ours", "mine", False, {method.name: method for method, _ in rows}, values,
        pd.DataFrame({"psnr_db": psnr}, index=index), names[0],
    )  # fmt: skip


def only(found: list[Pair], kind: str) -> Pair:
    (pair,) = [pair for pair in found if pair.kind == kind]
    return pair


def words_of(missing: str) -> list[str]:
    """Return the settings in the command that a pair tells to type."""
    return shlex.split(missing.split("`")[1])[3:]


def test_the_nearest_uniform_skip_within_the_tolerance_is_the_control(tmp_path: Path) -> None:
    found = pairs(
        section(
            row(tmp_path, "method=bf16"),
            row(tmp_path, "method=flowcache_slow", skipped=0.46),
            row(tmp_path, "method=uniform_skip", "method.reuse.ratio=0.48", skipped=0.48),
            row(tmp_path, "method=uniform_skip", "method.reuse.ratio=0.46", skipped=0.46),
            row(tmp_path, "method=reuse_fixed_bf16", skipped=0.46),
        )
    )
    pair, fixed = (each for each in found if each.kind == "uniform skip")
    assert (pair.method, pair.control) == ("flowcache_slow", "uniform_skip reuse.ratio=0.46")
    assert (pair.cost, pair.control_cost) == (0.46, 0.46)
    assert fixed.method == "reuse_fixed_bf16", "a fixed schedule is no even one"


def test_a_control_differs_in_nothing_else(tmp_path: Path) -> None:
    found = pairs(
        section(
            row(tmp_path, "method=bf16"),
            row(tmp_path, "method=flowcache_slow", skipped=0.46),
            row(tmp_path, "method=uniform_skip", "method.reuse.payload=velocity", skipped=0.46),
            row(tmp_path, "method=uniform_skip", NEWEST, skipped=0.46),
        )
    )
    assert only(found, "uniform skip").control is None


@pytest.mark.parametrize(
    ("method", "skipped", "wanted"),
    [
        ("flowcache_slow", 0.46, {"ratio": 0.46}),
        ("teacache", 0.553, {"ratio": 0.56, "scope": "window"}),
        ("reuse_fixed_bf16", 0.02, {"ratio": 0.02, "protect_last": False}),
        ("flowcache_magi_slow", 0.4, {"payload": "displacement", "allow_stale_commit": True}),
    ],
)
def test_the_command_makes_the_missing_uniform_skip(
    tmp_path: Path, method: str, skipped: float, wanted: dict[str, object]
) -> None:
    rows = [row(tmp_path, "method=bf16"), row(tmp_path, f"method={method}", skipped=skipped)]
    words = words_of(only(pairs(section(*rows)), "uniform skip").missing)
    made = configured(*[word for word in words if word.startswith(("method", "model"))])["method"]
    assert made["reuse"]["_target_"] == "methods.reuse.uniform.Uniform"
    assert made["reuse"] | wanted == made["reuse"]
    own = [word for word in words if word.startswith("method")]
    again = section(*rows, row(tmp_path, *own, skipped=float(made["reuse"]["ratio"])))
    assert only(pairs(again), "uniform skip").control is not None


def test_a_ratio_that_no_schedule_reaches_is_said(tmp_path: Path) -> None:
    rows = [row(tmp_path, "method=bf16"), row(tmp_path, "method=flowcache_slow", skipped=0.37)]
    few = section(*rows)
    request = few.methods["flowcache_slow"].request
    assert request is not None
    request.model["schedule"]["num_steps"] = 4
    assert "of 4 steps no whole number" in only(pairs(few), "uniform skip").missing


def test_windows_of_equal_bytes_are_the_controls_of_eviction(tmp_path: Path) -> None:
    rows = [
        row(tmp_path, "method=bf16"),
        row(tmp_path, "method=flowcache_bf16", frames=310 / 32, overhead=TOKEN),
        row(tmp_path, "method=memrope_bf16", frames=10),
        row(tmp_path, "method=window_bf16", frames=10),
        row(tmp_path, "method=sink_window_bf16", frames=11),
    ]
    first, sink, merged, _ = pairs(section(*rows))
    assert (first.kind, first.control) == ("first in, first out", "window_bf16")
    assert first.control_cost == pytest.approx(first.cost, rel=0.02)
    assert (sink.kind, sink.control) == ("sink and window", None), "11 frames are 10 % more"
    assert merged.control == "window_bf16", "where exact keys get their positions is no difference"
    assert "method=sink_window_bf16" in words_of(sink.missing)
    assert "method.retention.budget=10 frames" in words_of(sink.missing)


def test_a_method_that_no_window_equals_is_given_a_budget_that_one_does(tmp_path: Path) -> None:
    budget = "method.retention.budget=10 frames"
    rows = [
        row(tmp_path, "method=bf16"),
        row(tmp_path, "method=flowcache_bf16", budget, frames=10, overhead=TOKEN),
        row(tmp_path, "method=window_bf16", frames=10),
    ]
    told = only(pairs(section(*rows)), "first in, first out").missing
    assert "a window of 10 frames has 0.970 of its bytes" in told
    assert "method.retention.budget=310 tokens" in words_of(told)
    assert budget not in words_of(told)


def test_a_method_that_does_both_keeps_its_other_part_in_each_control(tmp_path: Path) -> None:
    budget = "method.retention.budget=305 tokens"
    tokens = 305 + 160  # the newest chunk stays whole until the next pass
    rows = [
        row(tmp_path, "method=bf16"),
        row(tmp_path, "method=flowcache_cut", budget, frames=tokens / 32, skipped=0.46,
            overhead=TOKEN),
        row(tmp_path, "method=uniform_skip", skipped=0.46),
        row(tmp_path, "method=window_bf16", frames=15),
    ]  # fmt: skip
    uniform, _, first, sink = pairs(section(*rows))
    assert uniform.control is first.control is sink.control is None
    assert set(UNIFORM) <= set(words_of(uniform.missing)) and budget in words_of(uniform.missing)
    assert WINDOW[0] in words_of(first.missing) and budget not in words_of(first.missing)
    made = configured(MODEL, "method=flowcache_cut", *WINDOW)["method"]
    assert made["reuse"]["threshold"] == 0.1 and made["retention"]["budget"] == "15 frames"
    rows += [
        row(tmp_path, "method=flowcache_cut", budget, *UNIFORM, frames=tokens / 32, skipped=0.46,
            overhead=TOKEN),
        row(tmp_path, "method=flowcache_cut", *WINDOW, frames=15, skipped=0.46),
    ]  # fmt: skip
    found = pairs(section(*rows))
    assert {pair.method for pair in found} == {f"flowcache_cut {budget[7:]}"}, "of no control"
    assert [pair.control is not None for pair in found] == [True, False, True, False]


def test_what_keeps_all_or_is_a_control_needs_none(tmp_path: Path) -> None:
    rows = [
        row(tmp_path, "method=bf16"),
        row(tmp_path, "method=rtn_int4", overhead=0.3),
        row(tmp_path, "method=window_bf16", frames=10),
        row(tmp_path, "method=uniform_skip", skipped=0.5),
    ]
    assert pairs(section(*rows)) == []


def test_the_table_shows_both_and_their_paired_difference(tmp_path: Path) -> None:
    rows = [
        row(tmp_path, "method=bf16"),
        row(tmp_path, "method=flowcache_slow", skipped=0.46),
        row(tmp_path, "method=uniform_skip", skipped=0.46),
        row(tmp_path, "method=flowcache_fast", skipped=0.56),
    ]
    grid, _ = tables(section(*rows))
    at = grid.header.index("PSNR dB")
    first, second = grid.lines
    assert list(first[:4]) == ["flowcache_slow", "uniform_skip", "0.460", "0.460"]
    assert list(first[at : at + 3]) == ["33.50", "34.50", "-1.00 [-1.00, -1.00]"]
    assert list(second[:4]) == ["flowcache_fast", "missing", "0.560", "-"]
    assert any(note.startswith("flowcache_fast: make it with `python") for note in grid.notes)


@pytest.mark.parametrize(("name", "steps"), [("skyreels_tiny", 27), ("magi_tiny", 36)])
def test_the_number_of_steps_nearest_in_cost_is_found(name: str, steps: int) -> None:
    """With full attention all steps of a video cost nearly the same."""
    model: VideoModel = instantiate(configured(f"model={name}")["model"])
    parts: Parts = instantiate(configured("method=bf16")["method"])
    schedule: Any = model.schedule
    share = steps / schedule.num_steps
    assert steps_of_cost(model, parts, 3 * model.chunk_frames, share) == steps


def test_fewer_steps_are_a_control_with_distances_to_the_full_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control lies in a section of its own, whose PSNR would be to its own BF16 videos."""
    full, slow = row(tmp_path, "method=bf16"), row(tmp_path, "method=flowcache_slow", skipped=0.46)
    full, slow = (
        (replace(method, flops=flops), values)
        for (method, values), flops in ((full, 2.0), (slow, 1.0))
    )
    short = row(tmp_path, "method=bf16", "model.schedule.num_steps=27")
    short = (replace(short[0], name="bf16 model.schedule.num_steps=27"), short[1])
    long = section(full, slow)
    long = replace(long, shorter=shorter(long, [long, section(short)]))
    assert [each.reference for each in long.shorter] == [short[0].name]
    monkeypatch.setattr("analysis.controls.pairs.steps_of_cost", lambda *given: 27)
    grey = np.full((2, 16, 16, 3), 100, np.uint8)
    for of, level in ((full, 0), (short, 10)):
        folder = of[0].folder
        assert folder is not None
        for prompt in range(6):
            (folder / "videos").mkdir(parents=True, exist_ok=True)
            write_raw(folder / "videos" / f"{prompt:04d}-0.npy", grey + np.uint8(level))
    pair = only(pairs(long), "fewer steps")
    assert (pair.control, pair.cost, pair.control_cost) == (short[0].name, 50, 27)
    wide = with_fewer_steps(long)
    theirs = float(wide.values["psnr_db"][short[0].name])
    assert theirs == pytest.approx(10 * np.log10(255**2 / 10**2))
    assert set(wide.methods) - set(long.methods) == {short[0].name}, "choices never see it"
    said = notes(long, ["flowcache_slow"])
    assert said[0].startswith(f"flowcache_slow: beside {short[0].name} (fewer steps), PSNR")
    assert said[1].startswith("flowcache_slow: no control by uniform skip;")
    alone = only(pairs(replace(long, shorter=())), "fewer steps").missing
    assert {"method=bf16", "model.schedule.num_steps=27"} <= set(words_of(alone))


def test_fewer_steps_need_the_flops_of_the_run_that_skips_nothing(tmp_path: Path) -> None:
    slow = row(tmp_path, "method=flowcache_slow", skipped=0.46)
    known = section(row(tmp_path, "method=bf16"), slow)
    assert "rows without FLOPs" in only(pairs(known), "fewer steps").missing
    cut = row(tmp_path, "method=flowcache_cut", skipped=0.46)
    missing = only(pairs(section(row(tmp_path, "method=bf16"), cut)), "fewer steps").missing
    assert missing.startswith("first make its run without reuse")
    assert {"method=flowcache_cut", "method.reuse=null"} <= set(words_of(missing))


def test_notes_say_that_a_control_is_missing_and_nothing_of_other_methods(tmp_path: Path) -> None:
    of = section(
        row(tmp_path, "method=bf16"),
        row(tmp_path, "method=rtn_int4", overhead=0.3),
        row(tmp_path, "method=flowcache_slow", skipped=0.46),
    )
    (said,) = notes(of, list(of.methods))
    assert said.startswith("flowcache_slow: no control by uniform skip, nor by fewer steps;")
    assert notes(of, ["rtn_int4"]) == []
    (study,) = notes(replace(of, is_published=True), list(of.methods))
    assert "not known" in study


def test_other_work_is_no_shorter_section(tmp_path: Path) -> None:
    long = section(row(tmp_path, "method=bf16"))
    words = "model.schedule.num_steps=27", "model.schedule.shift=3.0"
    assert shorter(long, [long, section(row(tmp_path, "method=bf16", *words))]) == []


def test_the_study_has_no_settings_to_pair_by() -> None:
    study = Section("study", "x", True, {}, pd.DataFrame(), pd.DataFrame(), None)
    with pytest.raises(UserError, match="give a folder of results"):
        pairs(study)
    assert np.isnan(Method("a", "", "x", 1).skip_ratio)
