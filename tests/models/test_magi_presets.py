"""The presets of MAGI-1: the tiny one makes videos, and what does not fit is refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from harness.checks.parts import Parts
from harness.models.preset import VideoModel
from harness.runs.library import load, sample_video
from tests.support.families import made, planned, tiny
from tests.support.runs import run

QUICK = ("model=magi_tiny", "model.schedule.num_steps=8")
AS_FLOWCACHE = (
    "model.window=null",
    "model.loop.reach=null",
    "model.loop.commit=last_evaluated",
    "model.guidance=null",
)


@cache  # tests only read it
def video(*words: str, num_frames: int = 36) -> Any:
    model, method = load(*QUICK, *words)
    return sample_video(model, method, "a red fox", num_frames=num_frames, seed=0)


def test_the_window_evicts_only_what_no_pass_sees() -> None:
    """The history of six chunks is unlimited once, and five chunks long once."""
    whole, window = (
        video("method=bf16", f"model.window={frames}", "model.dtype=float32")
        for frames in ("null", 30)
    )
    torch.testing.assert_close(window.latents, whole.latents, atol=1e-5, rtol=0)
    assert window.session.stored_bytes < whole.session.stored_bytes


def test_the_prompt_and_the_number_of_chunks_that_follow_are_read() -> None:
    exact = video("method=bf16")
    plain = video("method=bf16", "model.prompts.kinds=[hq]")
    assert (exact.latents - plain.latents).abs().max() > 1e-2


def test_a_prefix_is_continued() -> None:
    """One chunk and two frames are given: the chunk is read and not made again."""
    model, method = load(*QUICK, "method=bf16")
    given = torch.randn(8, *model.latent_shape(1)[1:], generator=torch.Generator().manual_seed(0))
    found, other = (
        sample_video(model, method, "a red fox", 24, seed=0, prefix_FChw=prefix)
        for prefix in (given, -given)
    )
    assert found.latents.shape[0] == 24 - 6
    # The last step still moves the given frames, as in the original.
    begin = torch.stack([found.latents[:2].float().flatten(), given[6:].flatten()])
    assert torch.corrcoef(begin)[0, 1] > 0.8
    assert (found.latents[6:] - other.latents[6:]).abs().mean() > 1e-2


def test_a_prefix_is_refused_where_no_loop_takes_it() -> None:
    model, method = load("model=small", "method=bf16")
    prefix = torch.zeros(3, *model.latent_shape(1)[1:])
    with pytest.raises(ValueError, match=r"choose a model with harness\.sampling\.Pipeline"):
        sample_video(model, method, "a red fox", 6, prefix_FChw=prefix)


@pytest.mark.parametrize(
    "words",
    [
        ("method=rtn_int4",),
        ("method=kivi_nowindow_int2",),
        ("method=h2o_bf16", "method.retention.budget=7 frames"),
        ("method=flowcache_magi_fast", "method.reuse.threshold=1.0"),
        ("method=uniform_skip",),
    ],
)
def test_methods_of_every_kind_change_the_video_and_keep_it_finite(words: tuple[str, ...]) -> None:
    exact = video("method=bf16")
    found = video(*words)
    assert torch.isfinite(found.latents).all()
    assert (found.latents - exact.latents).abs().max() > 1e-3


def test_the_cut_keeps_a_chunk_of_finished_ones_until_none_starts() -> None:
    """Eight chunks; when the last four are under way, nothing starts and nothing is cut."""
    cut = video("method=flowcache_magi_cut", *AS_FLOWCACHE, num_frames=48)
    assert cut.session.num_frames_held == 6 * (1 + 4)
    assert cut.session.ledger()["queries"] > 0


def test_a_threshold_that_locks_chunks_into_reuse_is_noted(tmp_path: Path) -> None:
    row = made(
        tiny(
            tmp_path,
            "magi_tiny",
            "flowcache_magi_slow",
            18,
            "method.reuse.threshold=1000",
            "method.reuse.warmup=2",
        )
    )
    # The last step of the video always runs.
    assert "2 chunks ran no pass to their end, chunk 0 from step 2 on" in row["notes"]


def test_the_age_of_stored_keys_is_in_the_trace(tmp_path: Path) -> None:
    """Chunks that skip their last steps store what the newest step that ran has left."""
    words = ("model.loop.commit=last_evaluated", "method.reuse.threshold=1000")
    this = tiny(tmp_path, "magi_tiny", "flowcache_magi_slow", 18, *words)
    made(this)
    (path,) = (this.folder / "trace").glob("*.parquet")
    table = pd.read_parquet(path)
    stored = table[table["kv_age"].notna()]
    # Five of eight steps run; the last row of the video does, too.
    assert stored["kv_age"].tolist() == [3, 3, 0]
    assert (stored["phase"] == "denoise").all() and stored["step"].tolist() == [7, 7, 7]


@pytest.mark.parametrize("name", ["magi_tiny", "magi_4.5b_flowcache"])
def test_stored_bytes_are_those_of_the_plan(tmp_path: Path, name: str) -> None:
    this = tiny(tmp_path, name, "rtn_int4", 36)
    row = made(this)
    assert row["kv_stored_bytes"] == planned(this).allocated_bytes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.loop.chunks=3",), "num_steps=8 cannot be split into 3 equal parts"),
        (("model.loop.reach=[3,2,1]",), "num_steps=8 cannot be split into 3 equal parts"),
        (("model.loop.chunks=0",), "model.loop.chunks=0: give whole numbers from 1"),
        (("model.loop.reach=[5,4,3,0]",), "give whole numbers from 1"),
        (("model.loop.commit=later",), "give one of clean, last_evaluated"),
        (("model.window=18",), "model.window=18 is shorter than"),
        (("model.prompts.kinds=[loud]",), "loud is unknown, choose static"),
        (("model.prompts.weights=checkpoint",), "give the path of special_tokens.npz"),
        (("method=flowcache_magi_cut",), "choose model.loop.reach=null"),
        (
            ("method=flowcache_magi_cut", "model.window=null", "model.loop.reach=null"),
            "choose model.guidance=null",
        ),
        (
            ("method=flowcache_magi_cut", *AS_FLOWCACHE, "method.retention.trigger=commit"),
            "choose method.retention.trigger=new_chunk",
        ),
        (("method=teacache",), "method.reuse.payload=displacement or method.reuse.scope=chunk"),
        (("integration=published",), "choose integration=packed"),
        (("model.guidance.weight=2",), "give a share, 0 to 1"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(Exception) as raised:
        Parts.of(run(tmp_path, "method=bf16", *QUICK, *words))
    assert message in str(raised.value)


def test_networks_and_prompts_go_together(tmp_path: Path) -> None:
    model: VideoModel = load(*QUICK)[0]
    assert model.spec.kv_heads < model.spec.num_heads
    with pytest.raises(Exception, match="go together"):
        Parts.of(run(tmp_path, "method=bf16", "model=small", f"+model.prompts={PROMPTS}"))


PROMPTS = "{_target_:harness.models.MagiPrompts}"
