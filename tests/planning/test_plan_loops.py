"""Plans of the loops beside the chunk loop: what a real session attends to and stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor

from harness.api import Method
from harness.cache.attention.base import Scratch, Segment
from harness.cache.attention.portable import Portable
from harness.cache.session import Session
from harness.models.preset import VideoModel
from harness.planning.memory import Budget, Contract
from harness.planning.model_needs import Needs, network
from harness.planning.roofline import work
from harness.sampling.noise import SeededNoise
from harness.sampling.passes import NullObserver
from tests.support.families import made, planned, tiny
from tests.support.geometry import CPU
from tests.support.plans import planned as table
from tests.support.reuse import AsTheyAre


@dataclass(frozen=True)
class Counting(Portable):
    """Products of queries with keys, of all layers, as they are attended."""

    seen: list[int] = field(default_factory=list)

    def attend(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        history: Sequence[Segment],
        scratch: Scratch,
    ) -> Tensor:
        tokens = sum(segment.num_tokens for segment in history)
        self.seen.append(q_BHTD.shape[2] * (tokens + k_BHTD.shape[2]))
        return super().attend(q_BHTD, k_BHTD, v_BHTD, history, scratch)


def attended(model: VideoModel, method: Method, num_frames: int) -> list[int]:
    """Of every layer of every pass of a real video."""
    sampler = model.build(CPU, Path())
    backend, num_held = Counting(), model.loop.histories(num_frames)[0]
    session = Session(model.spec, method, backend, num_held, CPU)
    text_kv = model.text_kv(sampler, torch.zeros(8, model.dims.text_dim))
    noise = SeededNoise(0, model.latent_shape(num_frames))
    parts: list[Tensor] = []
    joint = AsTheyAre(parts)
    for part in sampler.sample(session, text_kv, noise, num_frames, NullObserver(), joint):
        parts.append(part)
    return backend.seen


@pytest.mark.parametrize(
    ("name", "num_frames", "words"),
    [
        ("rolling_forcing", 39, ()),  # frames leave, and lie hidden between sink and newest
        ("rolling_forcing", 8, ()),  # fewer chunks than steps, the last one partial
        ("causvid", 17, ("model.loop.frames=9",)),  # the last history ends with a partial chunk
        ("longlive", 18, ()),
        ("causal_forcing_framewise_2step", 5, ()),
    ],
)
@pytest.mark.parametrize("method", ["bf16", "rtn_int4"])
def test_passes_and_what_they_attend_to_are_those_of_a_video(
    tmp_path: Path, name: str, num_frames: int, words: tuple[str, ...], method: str
) -> None:
    this = tiny(tmp_path, name, method, num_frames, *words)
    model: VideoModel = instantiate(this.model)
    own: Method = instantiate(this.method)
    needs = Needs(network(model), 0, None, ())
    budget = Budget(model, needs, own, Portable())
    best = Contract(best=True, window=model.window)
    histories = budget.histories(best, num_frames)
    done = work(model, needs.network, budget.storage, histories, num_frames, Portable())
    found = attended(model, own, num_frames)
    num_passes = model.loop.num_passes(model.schedule, num_frames, model.chunk_frames)
    assert len(found) == num_passes * model.dims.num_layers
    assert done.attention_flops == pytest.approx(4 * sum(found) * model.dims.dim)


def test_a_restarted_video_ends_as_planned(tmp_path: Path) -> None:
    """Of 17 frames, histories of 9, 9 and 5: the last chunk of the last one has two frames."""
    this = tiny(tmp_path, "causvid", "rtn_int4", 17, "model.loop.frames=9")
    row: Any = made(this)
    plan = planned(this)
    assert row["kv_frames_held"] == plan.frames_full == 5
    assert row["kv_stored_bytes"] == plan.allocated_bytes  # the room is that of the longest
    whole = planned(tiny(tmp_path, "causvid", "rtn_int4", 18, "model.loop.frames=9"))
    assert plan.stored_bytes == pytest.approx(whole.stored_bytes * 5 / 6)


def test_a_restarted_video_decodes_beside_its_prompt() -> None:
    """And holds the latents of one history at a time."""
    (short,), (long,) = (
        table("model=causvid", f"suite.frames={n}", "method=bf16") for n in (21, 60)
    )
    assert short.best["decode"]["latents"] == long.best["decode"]["latents"]
    assert short.allocated_bytes == long.allocated_bytes
    extra = set(long.best["decode"]) - set(short.best["decode"])
    assert extra == {"text K/V"}


@pytest.mark.slow
def test_seconds_of_the_loops_follow_from_their_passes() -> None:
    """At true size: a restart adds commits, a window of five chunks five times the queries."""
    seconds = {}
    for name in ("self_forcing", "causvid", "rolling_forcing"):
        (row,) = table(f"model={name}", "suite.frames=42", "method=bf16", "card=h200")
        assert row.dit_s is not None and not any("unknown" in reason for reason in row.reasons)
        seconds[name] = row.dit_s
    assert seconds["causvid"] < seconds["self_forcing"] < seconds["rolling_forcing"]
