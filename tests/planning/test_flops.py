"""FLOPs of MAGI-1 and SkyReels-V2 against the totals that FlowCache's paper and others print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate

from harness.cache.traffic import Arithmetic
from harness.models.preset import VideoModel
from harness.models.text.special_tokens import NULL_ROWS
from harness.planning.flops import video_flops
from harness.sampling.guidance import Role
from harness.sampling.passes import Pass
from tests.support.families import made, tiny
from tests.support.geometry import configured

PETA = 1e15
UNBOUNDED = ("model.window=null", "model.loop.reach=null")
ALONE = ("model.guidance=null",)


def model(*words: str) -> VideoModel:
    found: VideoModel = instantiate(configured(*words)["model"])
    return found


@pytest.mark.parametrize(
    ("words", "settings", "published"),
    [
        (UNBOUNDED, {}, 306.0),  # "vanilla"
        ((*UNBOUNDED, *ALONE), {}, 280.3),
        ((), {}, 207.3),  # the released window
        (ALONE, {}, 181.6),
        ((*UNBOUNDED, *ALONE), {"finished": 1}, 181.6),  # FlowCache, 5 chunks in its buffer
        ((*UNBOUNDED, *ALONE), {"finished": 2}, 207.3),  # 6 chunks
    ],
)
def test_magi_of_ten_chunks(
    words: tuple[str, ...], settings: dict[str, Any], published: float
) -> None:
    """Chunks that are encoded again do not count in the published totals."""
    this = model("model=magi_4.5b_distill", *words)
    found = video_flops(this, 60, commits=False, **settings)
    assert found / PETA == pytest.approx(published, rel=5e-3)


def test_magi_of_seven_chunks_with_the_released_window() -> None:
    found = video_flops(model("model=magi_4.5b_distill"), 42, commits=False)
    assert found / PETA == pytest.approx(139.0, rel=5e-3)


def test_the_costs_of_a_chunk_of_magi() -> None:
    this = model("model=magi_4.5b")
    tokens = 6 * this.spec.tokens_per_frame
    layers = this.dims.num_layers
    matrices = Arithmetic(tokens=tokens * layers)
    attention = Arithmetic(pairs=tokens**2 * layers)
    assert this.flops(matrices) == pytest.approx(98.76e12, rel=1e-3)
    assert this.flops(attention) == pytest.approx(61.68e12, rel=1e-3)


@pytest.mark.parametrize(
    ("execution", "commits", "published"),
    [
        ("joint_causal", False, 113.6),  # what the paper charges the vanilla pipeline
        ("joint", False, 165.0),  # what its examples run
        ("chunk_causal", False, 79.7),
    ],
)
def test_skyreels_of_177_frames(execution: str, commits: bool, published: float) -> None:
    this = model("model=skyreels_v2", f"model.loop.execution={execution}")
    found = video_flops(this, 45, text_rows=512, commits=commits)
    assert found / PETA == pytest.approx(published, rel=5e-3)


def test_what_does_not_run_does_not_count() -> None:
    this = model("model=skyreels_v2")
    whole = video_flops(this, 45, commits=False)
    half = video_flops(this, 45, commits=False, runs=lambda each, role: role.name == "cond")
    assert half == pytest.approx(whole / 2)
    assert video_flops(this, 45) > whole


@pytest.mark.parametrize(
    ("name", "num_frames", "words"),
    [
        ("self_forcing", 9, ()),
        ("longlive", 18, ()),
        (
            "skyreels_v2",
            20,
            ("model.loop.frames=15", "model.schedule.num_steps=4", "model.loop.offset=1"),
        ),
        (
            "skyreels_v2",
            10,
            ("model.schedule.num_steps=4", "model.loop.execution=joint_causal"),
        ),
    ],
)
def test_a_videos_row_counts_what_ran(
    tmp_path: Path, name: str, num_frames: int, words: tuple[str, ...]
) -> None:
    """The cache counts while it runs, and this module counts from the order of passes alone."""
    this = tiny(tmp_path, name, "bf16", num_frames, *words)
    row, planned_model = made(this), instantiate(this.model)
    assert row["flops"] == video_flops(planned_model, num_frames, text_rows=8)


def test_a_row_of_magi_counts_each_text_at_its_own_length(tmp_path: Path) -> None:
    """The branch without text and the passes over clean chunks read the network's empty text."""
    this = tiny(tmp_path, "magi_4.5b", "bf16", 18, "model.prompts.kinds=[]")
    row, planned_model = made(this), instantiate(this.model)

    def reads_prompt(each: Pass, role: Role) -> bool:
        return role.text == "prompt" and each.step is not None

    (rows_TE,) = planned_model.text.encode([this.suite.prompts[0].text])
    num_rows = int(rows_TE.any(dim=1).sum())  # MAGI-1 reads no padding
    expected = video_flops(planned_model, 18, text_rows=num_rows, runs=reads_prompt)
    expected += video_flops(
        planned_model,
        18,
        text_rows=NULL_ROWS,
        runs=lambda each, role: not reads_prompt(each, role),
    )
    assert row["flops"] == expected


def test_a_skipped_pass_is_not_counted(tmp_path: Path) -> None:
    whole, skipping = (
        made(tiny(tmp_path / method, "self_forcing", method, 6))
        for method in ("bf16", "reuse_fixed_bf16")
    )
    ran = 1 - skipping["num_reused"] / skipping["num_passes"]
    assert skipping["flops"] == pytest.approx(ran * whole["flops"], rel=0.05)


def test_two_branches_that_share_a_history_have_the_bytes_of_one(tmp_path: Path) -> None:
    row = made(tiny(tmp_path, "magi_4.5b", "bf16", 18))
    assert row["kv_ratio_same_frames"] == pytest.approx(1, abs=0.01)
    assert [*row["kv_stored_bytes_by_branch"]] == [0, row["kv_stored_bytes"]]
    assert row["kv_frames_held"] == 18
