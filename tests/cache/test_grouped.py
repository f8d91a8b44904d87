"""Fewer heads of keys and values than of queries, against a cache that holds each of them twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harness.api import CacheSpec, Method
from harness.cache import kernels
from harness.cache.attention.base import Backend
from harness.cache.attention.fused import Fused
from harness.cache.attention.portable import Portable
from harness.cache.attention.reference import Reference
from harness.cache.attention.staged import Staged
from harness.cache.session import Session
from harness.cache.stored_bytes import frame_bytes
from harness.planning.storage import Storage
from methods.quantizers.rtn import RTN
from methods.retention.keep import KeepAll
from methods.retention.prune import SoftPrune
from tests.support.geometry import BF16, CPU, method_names, method_of, one_of_each_class, spec
from tests.support.tokens import draw

GROUPED = {"num_heads": 4, "num_kv_heads": 2, "num_layers": 1}
MAGI = {"num_heads": 24, "num_kv_heads": 8, "num_layers": 1, "head_dim": 128}
BACKENDS: dict[str, Backend] = {
    "reference": Reference(),
    "heads": Portable(),
    "one head": Portable(scratch_mib=1e-6),
    "tokens": Portable(axis="tokens", tile_tokens=40),
    "staged": Staged(scratch_mib=1e-6, least_heads=1),
    "fused": Fused(),
}
KERNELS = ("staged", "fused")
EXACT = 1e-6  # the same products, summed in blocks of other sizes
FP32 = 2e-5  # as between backends (test_attention)


def outputs(
    session: Session, shape: CacheSpec, alike: bool, num_frames: int = 18, groups: int = 2
) -> Tensor:
    """What every pass draws from history [B, H, T, D]; alike: query heads of a group are equal."""
    draw = torch.Generator().manual_seed(0)
    num_tokens, found = shape.chunk_frames * shape.tokens_per_frame, []
    group = shape.num_heads // groups
    for start in range(0, num_frames, shape.chunk_frames):
        q = torch.randn(1, shape.num_heads, num_tokens, shape.head_dim, generator=draw)
        k, v = torch.randn(2, 1, groups, num_tokens, shape.head_dim, generator=draw)
        if alike:
            q = q[:, ::group].repeat_interleave(group, 1)
        if shape.num_kv_heads is None:
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        plan = session.plan(range(start, start + shape.chunk_frames), "history")
        found.append(session.attend(0, q, k, v, plan))
    return torch.cat(found, 2)


def both(
    method: Method,
    backend: Backend,
    alike: bool = False,
    num_frames: int = 18,
    heads: Mapping[str, int] = GROUPED,
) -> tuple[Tensor, Tensor]:
    """Outputs of a grouped cache, and of one whose heads are repeated."""
    found = []
    for shape in (spec(**heads), spec(**{**heads, "num_kv_heads": None})):
        method.check(shape)
        session = Session(shape, method, backend.resolve(shape, method, CPU), 18, CPU)
        found.append(outputs(session, shape, alike, num_frames, heads["num_kv_heads"]))
    return found[0], found[1]


@pytest.mark.parametrize("name", one_of_each_class(method_names()))
def test_every_method_treats_a_group_as_repeated_heads(name: str) -> None:
    """Query heads of a group are equal here: else a policy that looks at them keeps other tokens.

    A scorer takes the maximum over the group, which is then the score of each.
    """
    method = method_of(name)
    grouped, repeated = both(method, Portable(), alike=True)
    torch.testing.assert_close(grouped, repeated, atol=FP32, rtol=0)
    if isinstance(method.retention, KeepAll):  # every quantizer, over the heads of MAGI-1 too
        grouped, repeated = both(method, Portable(), num_frames=6, heads=MAGI)
        torch.testing.assert_close(grouped, repeated, atol=FP32, rtol=0)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in KERNELS)) for name in BACKENDS],
)
def test_every_backend_serves_groups(name: str) -> None:
    """Of quantized and of pooled frames."""
    method = Method(RTN(bits=4), RTN(bits=4), SoftPrune())
    exact = name in ("reference", "heads", "one head")
    if name in KERNELS and kernels.missing(CPU):
        pytest.skip(f"{kernels.missing(CPU)}, and TRITON_INTERPRET is not set")
    grouped, repeated = both(method, BACKENDS[name], num_frames=18 if exact else 6)
    torch.testing.assert_close(grouped, repeated, atol=EXACT if exact else FP32, rtol=0)


def test_keys_that_turn_on_reading() -> None:
    for changes in ({"keys": "pre_rope"}, {"window": 9, "sink": 3, "positions": "relative"}):
        found = []
        for heads in (GROUPED, {"num_heads": 4, "num_layers": 1}):
            shape = spec(**heads, **changes)
            found.append(outputs(Session(shape, BF16, Portable(), 18, CPU), shape, False))
        torch.testing.assert_close(*found, atol=EXACT, rtol=0)


def test_bytes_count_heads_of_keys_and_values() -> None:
    grouped, repeated = spec(**GROUPED), spec(num_heads=4, num_layers=1)
    assert 2 * grouped.bf16_frame_bytes == repeated.bf16_frame_bytes
    for method in (BF16, Method(RTN(bits=4), RTN(bits=4), KeepAll()), method_of("snapkv_bf16")):
        assert 2 * frame_bytes(method, grouped) == frame_bytes(method, repeated)
        planned = [Storage(x, method, torch.bfloat16).total("keep") for x in (grouped, repeated)]
        assert 2 * planned[0] == planned[1]
    sessions = [Session(x, BF16, Portable(), 18, CPU) for x in (grouped, repeated)]
    for session in sessions:
        outputs(session, session.spec, False)
    assert 2 * sessions[0].stored_bytes == sessions[1].stored_bytes


def test_a_scorer_takes_the_query_head_that_draws_most() -> None:
    policy = method_of("snapkv_bf16").retention
    tokens = draw(6)
    scorer = policy.scorer  # type: ignore[attr-defined]
    apart = [
        torch.randn(tokens.query.shape, generator=torch.Generator().manual_seed(i)) for i in (0, 1)
    ]
    scores = [scorer.mass(replace(tokens, query=q)) for q in apart]
    grouped = replace(tokens, query=torch.stack(apart, 2).flatten(1, 2))
    torch.testing.assert_close(scorer.mass(grouped), torch.maximum(*scores))


@pytest.mark.parametrize("heads", [0, 3, 8])
def test_groups_of_different_sizes_are_refused(heads: int) -> None:
    with pytest.raises(
        ValueError, match=f"num_kv_heads={heads} does not divide num_heads=4: choose"
    ):
        spec(num_heads=4, num_kv_heads=heads)
