"""Videos whose prompt changes: which text a chunk reads, and the history computed again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from harness.cache.session import Session
from harness.checks.parts import Parts
from harness.models.preset import VideoModel
from harness.planning.memory import Budget, Contract
from harness.planning.model_needs import Needs, network
from harness.planning.roofline import work
from harness.prompts.suite import Prompt, Suite
from harness.results import all_runs
from harness.results.run import Run
from harness.results.video_files import read_frames
from harness.sampling.guidance import Branch
from harness.sampling.noise import SeededNoise
from harness.sampling.passes import NullObserver
from harness.sampling.sampler import Generation
from tests.support.families import made, tiny
from tests.support.geometry import CPU
from tests.support.runs import run

SHORT = ("model.loop.frames=15", "model.schedule.num_steps=4", "model.loop.offset=1")
FOX, TRAIN = "a red fox runs through snow", "a blue train crosses a bridge at night"


def video(
    folder: Path, this: Run, texts: tuple[str, ...], switches: tuple[int, ...] = (),
    recache: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """Row and pixels of one video."""
    prompt = Prompt(0, " || ".join(texts), parts=texts if switches else ())
    suite = replace(this.suite, prompts=(prompt,), switches=switches, recache=recache)
    this = replace(this, results_dir=str(folder), suite=suite)
    row = made(this)
    return row, read_frames(this.video(this.items[0]))


@pytest.mark.parametrize(
    ("name", "chunk", "words"),
    [
        ("self_forcing", 3, ()),
        ("causvid", 3, ("model.loop.frames=6",)),  # of three histories the switch is in the last
        ("magi_tiny", 6, ()),
        ("skyreels_tiny", 5, SHORT),
    ],
)
def test_frames_before_a_switch_are_those_of_the_first_prompt(
    tmp_path: Path, name: str, chunk: int, words: tuple[str, ...]
) -> None:
    """Also where the history starts anew, and where several chunks are under way."""
    this = tiny(tmp_path, name, "bf16", 4 * chunk, *words)
    _, of_fox = video(tmp_path / "fox", this, (FOX,))
    row, both = video(tmp_path / "both", this, (FOX, TRAIN), (2 * chunk,))
    # The decoder is causal: a pixel frame depends on no later latent frame.
    same = [bool((one == other).all()) for one, other in zip(of_fox, both, strict=True)]
    before = same.index(False)
    assert before == 4 * (2 * chunk - 1) + this.model["decoder"].get("first_pixel_frames", 1)
    assert not any(same[before:])
    assert f"a new prompt begins at latent frames {2 * chunk}" in row["notes"]
    assert row["prompt"] == f"{FOX} || {TRAIN}"


@pytest.mark.parametrize(
    "method", ["rtn_int4", "kivi_int4", "softprune_int4", "sink_window_int4", "snapkv_int4"]
)
def test_a_history_computed_again_under_the_same_text_is_the_same(
    tmp_path: Path, method: str
) -> None:
    """With the full history the passes that store it repeat what they did: nothing changes."""
    this = tiny(tmp_path, "self_forcing", method, 15, "model.window=null")
    plain, expected = video(tmp_path / "one", this, (FOX,))
    row, found = video(tmp_path / "again", this, (FOX, FOX), (9,), recache=True)
    assert np.array_equal(found, expected)
    assert row["num_commits"] == plain["num_commits"] + 3
    assert row["kv_stored_bytes"] == plain["kv_stored_bytes"]
    assert row["kv_encode_calls"] > plain["kv_encode_calls"]
    assert row["flops"] > plain["flops"]
    assert len(row["chunk_s"]) == 5


def test_recaching_changes_what_follows_a_switch_and_nothing_before(tmp_path: Path) -> None:
    this = tiny(tmp_path, "longlive", "bf16", 15)
    _, kept = video(tmp_path / "kept", this, (FOX, TRAIN), (9,))
    _, again = video(tmp_path / "again", this, (FOX, TRAIN), (9,), recache=True)
    first = 4 * 8 + 1  # pixel frames of nine latent frames
    assert np.array_equal(kept[:first], again[:first])
    assert not (kept[first:] == again[first:]).all()


def test_recaching_renews_the_window_and_keeps_the_sink(tmp_path: Path) -> None:
    """LongLive's window of 12 with a sink of 3: frames 12 to 20 of 21, each behind the sink."""
    this = tiny(tmp_path, "longlive", "bf16", 24, "model.dtype=float32")
    model: VideoModel = instantiate(this.model)
    sampler = model.build(CPU, Path())
    method, rows = instantiate(this.method), torch.eye(2, 8 * model.dims.text_dim).view(2, 8, -1)

    def after(num_frames: int, recached: tuple[int, ...]) -> tuple[list[int], Any, Any]:
        backend = Parts.of(this).integration.resolve(
            Parts.of(this).attention, model.spec, method, CPU
        )
        session = Session(model.spec, method, backend, 24, CPU)
        texts = model.texts(sampler, {"prompt": rows[0]}, 24, later={21: rows[1]})
        branches = (Branch(session, texts["prompt"]),)
        noise = SeededNoise(0, model.latent_shape(24))
        passes = sampler.run(Generation(branches, noise, 24, NullObserver(), recached=recached))
        for _ in range(num_frames // 3):
            next(passes)
        return session.stored(1)

    frames, before_k, _ = after(21, ())
    assert frames == [0, 1, 2, *range(12, 21)]
    late, kept_k, _ = after(24, ())
    again, renewed_k, _ = after(24, (21,))
    assert late == again == [0, 1, 2, *range(15, 24)]
    assert torch.equal(kept_k[:, :, :3], before_k[:, :, :3])
    assert torch.equal(kept_k[:, :, 3:9], before_k[:, :, 6:])
    assert torch.equal(renewed_k[:, :, :3], before_k[:, :, :3])
    assert not any(torch.equal(renewed_k[:, :, i], kept_k[:, :, i]) for i in range(3, 12))


@pytest.mark.parametrize(
    ("name", "window"), [("self_forcing", "null"), ("self_forcing", "9"), ("longlive", "12")]
)
def test_the_plan_counts_the_passes_of_recaching(tmp_path: Path, name: str, window: str) -> None:
    this = tiny(tmp_path, name, "bf16", 21, f"model.window={window}")
    model: VideoModel = instantiate(this.model)
    method = instantiate(this.method)
    row, _ = video(tmp_path / "made", this, (FOX, TRAIN, FOX), (6, 15), recache=True)
    assert row["num_passes"] == len(list(model.passes(21, (6, 15))))
    needs = Needs(network(model), 0, None, ())
    backend = Parts.of(this).integration.resolve(Parts.of(this).attention, model.spec, method, CPU)
    budget = Budget(model, needs, method, backend, num_switches=2)
    histories = budget.histories(Contract(best=True, window=model.window), 21)

    def planned(recached: tuple[int, ...]) -> float:
        done = work(model, needs.network, budget.storage, histories, 21, backend, recached)
        return done.attention_flops

    plain, _ = video(tmp_path / "plain", this, (FOX, TRAIN, FOX), (6, 15))
    more = planned((6, 15)) - planned(())
    # The difference of the rows has the matrices and the cross-attention of the added passes too.
    added = len(list(model.passes(21, (6, 15)))) - len(list(model.passes(21)))
    tokens = added * 3 * model.spec.tokens_per_frame
    pair = 4 * model.dims.num_heads * model.dims.head_dim
    rest = model.dims.num_layers * tokens * (2 * model.dims.token_weights + pair * 8)
    assert row["flops"] - plain["flops"] - rest == pytest.approx(more)
    assert budget.texts(21) == 3 * needs.network.text_kv_bytes


def test_a_branch_without_the_prompt_is_not_renewed(tmp_path: Path) -> None:
    words = ("+model.guidance={_target_: harness.sampling.Guidance, scale: 3}",)
    this = tiny(tmp_path, "self_forcing", "bf16", 9, "model.window=null", *words)
    model: VideoModel = instantiate(this.model)
    row, _ = video(tmp_path / "made", this, (FOX, TRAIN), (6,), recache=True)
    passes = [model.roles_of(each) for each in model.passes(9, (6,))]
    assert row["num_passes"] == sum(map(len, passes)) == 2 * len(list(model.passes(9))) + 2


@pytest.mark.parametrize(
    ("name", "method", "recache", "words", "message"),
    [
        ("rolling_forcing", "bf16", False, (), "shows chunks of two prompts in one pass"),
        ("skyreels_tiny", "bf16", False, ("model.loop.execution=joint",), "shows chunks of two"),
        ("magi_tiny", "bf16", True, (), "choose suite.recache=false"),
        ("causvid", "bf16", True, ("model.loop.frames=6",), "choose suite.recache=false"),
        ("self_forcing", "bf16", True, ("integration=published",), "choose integration=packed"),
        ("longlive", "snapkv_int4", True, (), "keeps the model's sink of 3 frames"),
    ],
)
def test_parts_that_cannot_change_the_prompt_say_so(
    tmp_path: Path, name: str, method: str, recache: bool, words: tuple[str, ...], message: str
) -> None:
    this = run(tmp_path, f"model={name}", f"method={method}", *words)
    suite = Suite("mine", (Prompt(0, "a"),), "custom", "", 30, (15,), recache)
    with pytest.raises(ValueError, match=message):
        Parts.of(replace(this, suite=suite))


def test_a_run_goes_on_where_its_prompts_change(tmp_path: Path) -> None:
    """A run that is read back from its folder has the same switches and the same id."""
    this = tiny(tmp_path, "self_forcing", "bf16", 6)
    prompt = Prompt(0, f"{FOX} || {TRAIN}", parts=(FOX, TRAIN))
    suite = replace(this.suite, prompts=(prompt,), switches=(3,), recache=True)
    this = replace(this, suite=suite)
    this.make_folders()
    this.leave_request()
    again = Run.from_folder(this.folder)
    assert again.suite == suite
    assert again.run_id == this.run_id
    assert made(again)["run_id"] == this.run_id
    assert len(all_runs.load_run(this.folder)) == 1
