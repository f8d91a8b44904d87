"""Presets of the Wan family at tiny sizes through the pipeline, and one more as a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from harness.commands.run import main
from harness.config.compose import choices, described
from harness.models.preset import VideoModel
from harness.prompts.suite import Prompt
from harness.results import all_runs
from harness.results.run import Item
from harness.results.run_state import RunState
from harness.runs.generate import Generator
from harness.runs.meter import Meter
from tests.support.families import TINY, made, planned, tiny
from tests.support.generation import make_all
from tests.support.geometry import configured
from tests.support.runs import run
from tests.support.tiny_wan import CHECKPOINT, DIMS, choose, write_checkpoint, write_parts

OURS = ("small", "small_forcing", "skyreels_tiny", "magi_tiny")
FAMILY = [name for name in choices("model") if name not in OURS]
# The second window has 10 frames, of which the first 5 are given.
WINDOWS = ("model.loop.frames=15", "model.schedule.num_steps=4", "model.loop.offset=1")
EXPECTED = {  # window, sink, chunk, steps, shift, ema, positions, as published
    "self_forcing": (21, 0, 3, 4, 5, True, "absolute"),
    "causal_forcing": (21, 0, 3, 4, 5, False, "absolute"),
    "causal_forcing_framewise": (21, 0, 1, 4, 5, True, "absolute"),
    "causal_forcing_framewise_2step": (21, 0, 1, 2, 5, True, "absolute"),
    "causal_forcing_framewise_1step": (21, 0, 1, 1, 5, True, "absolute"),
    "causvid": (21, 0, 3, 3, 8, False, "absolute"),
    "longlive": (12, 3, 3, 4, 5, False, "absolute"),
    "longlive_infinity": (12, 3, 3, 4, 5, False, "relative"),
    "reward_forcing": (9, 3, 3, 4, 5, True, "relative"),
    "rolling_forcing": (24, 3, 3, 5, 5, True, "anchored"),
    "skyreels_v2": (None, 0, 5, 50, 8, False, "absolute"),
    "magi_4.5b": (30, 0, 6, 64, 3, False, "absolute"),
    "magi_4.5b_distill": (30, 0, 6, 64, 3, False, "absolute"),
    "magi_4.5b_flowcache": (None, 0, 6, 64, 3, False, "absolute"),
    "self_forcing_sink": (21, 3, 3, 4, 5, True, "relative"),
    "self_forcing_deep_sink": (21, 10, 3, 4, 5, True, "relative"),
}


@pytest.mark.parametrize("name", FAMILY)
def test_every_preset_is_as_published(name: str) -> None:
    model: VideoModel = instantiate(configured(f"model={name}")["model"])
    steps = len(model.schedule.times(first_chunk=False))
    found = (model.window, model.sink, model.chunk_frames, steps, model.schedule.shift)
    assert (*found, model.ema, model.positions) == EXPECTED[name]
    assert model.source and described(choices("model")[name])


@pytest.mark.parametrize("name", FAMILY)
def test_every_preset_runs_and_is_planned_at_tiny_sizes(tmp_path: Path, name: str) -> None:
    """Three chunks with random weights; the planner foresees what the cache comes to hold."""
    chunk = EXPECTED[name][2]
    this = tiny(tmp_path, name, "rtn_int4", 3 * chunk)
    row = made(this)
    model: VideoModel = instantiate(this.model)
    passes = model.loop.passes(model.schedule, 3 * chunk, chunk)
    assert row["num_passes"] == sum(len(model.roles_of(each)) for each in passes)
    assert row["kv_frames_held"] == 3 * chunk and row["weights"] == "random"
    assert planned(this).allocated_bytes == row["kv_stored_bytes"]


@pytest.mark.parametrize(
    ("name", "num_frames", "held", "words"),
    [
        ("reward_forcing", 15, 9, ()),
        ("rolling_forcing", 33, 24, ()),
        ("causvid", 18, 6, ("model.loop.frames=9",)),
        ("self_forcing_deep_sink", 27, 21, ()),
        ("skyreels_v2", 20, 10, WINDOWS),
    ],
)
@pytest.mark.parametrize("method", ["rtn_int4", "window_bf16"])
def test_long_videos_hold_what_the_planner_foresees(
    tmp_path: Path, name: str, num_frames: int, held: int, words: tuple[str, ...], method: str
) -> None:
    """With frames leaving: behind a window, into a sink that changes, with a whole history."""
    this = tiny(tmp_path, name, method, num_frames, *words)
    row, plan = made(this), planned(this)
    assert row["kv_stored_bytes"] == plan.allocated_bytes
    assert row["kv_frames_held"] == (plan.frames_full if method == "window_bf16" else held)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("rolling_forcing", ("method=reuse_fixed_bf16",), "choose a method without reuse"),
        ("rolling_forcing", ("method=h2o_bf16",), "choose a method that decides over frames"),
        ("reward_forcing", ("method=h2o_bf16",), "choose a method that decides over frames"),
        ("reward_forcing", ("method.keys=roped",), "choose method.keys=pre_rope"),
        ("reward_forcing", ("model.keys=roped",), "choose model.keys=pre_rope"),
        ("reward_forcing", ("model.sink=2",), "choose a sink of 3"),
        ("reward_forcing", ("model.sink_rate=2",), "give a share"),
        ("rolling_forcing", ("model.window=20",), "a window of at least 21"),
        ("rolling_forcing", ("method=qvg_int2", "model.latent_size=[16,16]"), "hold one frame"),
        ("causvid", ("integration=published",), "choose integration=packed"),
        ("causvid", ("model.loop.overlap=21",), "more frames than overlap"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(
    tmp_path: Path, name: str, words: tuple[str, ...], message: str
) -> None:
    this = run(tmp_path, f"model={name}", *TINY, "method=bf16", *words)
    with pytest.raises(Exception, match=message) as raised:
        Generator(this)
    assert "\n" not in str(raised.value).strip() or "Error in call" in str(raised.value)


@pytest.mark.slow
def test_one_more_preset_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative with settings of its own, from its checkpoint to its row, by the command line."""
    data, results = tmp_path / "data", tmp_path / "results"
    write_checkpoint(data)
    write_parts(data)
    own = choose(
        tmp_path / "own",
        "mine",
        defaults=["rolling_forcing", "_self_"],
        window=12,
        sink=2,
        schedule={"steps": [1000, 500]},
        text={"weights": "random", "length": 8, "width": DIMS.text_dim},
    )
    words = "model=mine method=bf16 suite.frames=6 suite.prompts=[0] suite.source=bundled"
    more = f"data_dir={data} results_dir={results} metrics=[psnr] track=disabled run.device=cpu"
    monkeypatch.setattr(
        "sys.argv", ["harness", "--config-dir", str(own), *words.split(), *more.split()]
    )
    assert main() == 0
    (folder,) = results.glob("*/mine/bf16-*")
    row = all_runs.load_run(folder).iloc[0]
    assert row.isna()["failure"] and CHECKPOINT in row["weights"]
    assert row["num_passes"] == 6, "two chunks and two steps: three windows, each with a commit"
    assert "sink=2" in row["preset"] and "joint=True" in row["preset"]


@pytest.mark.parametrize(
    ("name", "num_frames", "words"),
    [("rolling_forcing", 9, ()), ("causvid", 12, ("model.loop.frames=9",))],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    num_frames: int,
    words: tuple[str, ...],
) -> None:
    """Ctrl-C when the second of three videos is made, and not yet on disk."""
    prompts = tuple(Prompt(i, f"prompt {i}") for i in range(3))
    whole, stopped = (
        replace(each, suite=replace(each.suite, prompts=prompts))
        for folder in ("whole", "stopped")
        for each in [tiny(tmp_path / folder, name, "rtn_int4", num_frames, *words)]
    )
    for each in (whole, stopped):
        each.make_folders()
    make_all(whole)
    make = Generator.make

    def interrupted(self: Generator, item: Item, meter: Meter) -> Any:
        made = make(self, item, meter)
        if item.prompt.index == 1:
            raise KeyboardInterrupt
        return made

    monkeypatch.setattr(Generator, "make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_all(stopped)
    monkeypatch.undo()
    state = RunState.read(stopped.folder)
    assert len(state.made) == 1 and len(state.missing(stopped)) == 2
    make_all(stopped)
    assert RunState.read(stopped.folder).made == RunState.read(whole.folder).made
    assert len(set(RunState.read(whole.folder).made.values())) == 3


def test_random_weights_never_touch_files(tmp_path: Path) -> None:
    """An adapter and a checkpoint that are not there do not matter in systems mode."""
    generator = Generator(tiny(tmp_path, "longlive", "bf16", 6))
    assert generator.model.lora is not None
    assert all(torch.isfinite(x).all() for x in generator.sampler.network.state_dict().values())
