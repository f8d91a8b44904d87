"""Every file of conf/method with a token policy, over a short video."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harness.api import CacheSpec, Exact, TokenPolicy, VideoSize
from methods.retention.tokens.budgeted import Budgeted
from tests.support.geometry import CONF, read_method
from tests.support.tokens import CHUNK, SIZE, draw, room_of, spec_of, video

NAMES = (
    "h2o_bf16",
    "snapkv_bf16",
    "keydiff_bf16",
    "rkv_bf16",
    "flowcache_bf16",
    "flowcache_frame_bf16",
    "flowcache_chunk_bf16",
    "flowcache_rank_bf16",
    "flowcache_int4",
    "snapkv_int4",
    "deepforcing_bf16",
    "tempcache_bf16",
    "memrope_bf16",
)


@pytest.mark.parametrize("name", NAMES)
def test_the_file_builds_a_method_with_a_family_and_a_source(name: str) -> None:
    method = read_method(name)
    assert isinstance(method.retention, TokenPolicy)
    assert method.family and "arXiv" in method.source
    assert (CONF / "method" / f"{name}.yaml").read_text().startswith("# ")
    assert (method.keys == "pre_rope") == method.retention.rewrites
    if name.endswith("bf16"):
        assert isinstance(method.key, Exact)
        method.check(CacheSpec(4, 4, 32, (8, 12), 3))


@pytest.mark.parametrize("name", NAMES)
def test_the_file_holds_twelve_frames_of_any_video(name: str) -> None:
    """Equal memory: as much history as window_bf16, chunk by chunk."""
    policy = read_method(name).retention
    assert isinstance(policy, Budgeted)
    policy = policy.sized(VideoSize(SIZE, 60, frame_bytes=1, bf16_frame_bytes=1))
    policy.check(spec_of())
    for chunk, (seen, stored) in enumerate(video(policy, 7)):
        assert stored.frame.shape == (2, 2, min(12, 3 * chunk + 3) * SIZE)
        assert seen.key.dtype == stored.key.dtype and stored.frame.dtype == torch.int64
        newest = stored.frame >= seen.num_frames - CHUNK
        if not policy.rewrites:
            assert (newest.sum(2) == CHUNK * SIZE).all()
        times = policy.times(stored.frame, seen.num_frames)
        assert times.shape == stored.frame.shape and times.dtype == torch.int64
        assert (times < seen.num_frames).all() and (times >= 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_bf16_tokens_stay_bf16(name: str) -> None:
    policy = read_method(name).retention
    assert isinstance(policy, Budgeted)
    policy = policy.sized(room_of())
    tokens = draw(15)
    tokens = replace(
        tokens,
        key=tokens.key.bfloat16(),
        value=tokens.value.bfloat16(),
        rotated=tokens.rotated.bfloat16(),
        query=tokens.query.bfloat16(),
    )
    revision = policy.revise(tokens)
    for part in (revision.key, revision.value):
        assert part is None or part.dtype == torch.bfloat16
    for scores in (revision.note, revision.count):
        assert scores is None or scores.dtype == torch.float32


def test_a_policy_never_changes_what_it_sees() -> None:
    for name in NAMES:
        policy = read_method(name).retention
        assert isinstance(policy, Budgeted)
        tokens = draw(15)
        noisy_notes = {n: x.clone() for n, x in vars(tokens).items() if isinstance(x, Tensor)}
        policy.sized(room_of()).revise(tokens)
        assert all(torch.equal(getattr(tokens, n), x) for n, x in noisy_notes.items())
