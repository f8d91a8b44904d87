"""Fused attention: a flash-attention loop over packed history, decoded in registers tile by tile.

Each program repeats the decoding for its tile of queries, so this is faster for few queries only
(some hundreds); with thousands, staging the history once is faster. It needs no scratch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.api import KernelLayout, Packed
from harness.cache.kernels import check_head_dim, interpreted
from harness.cache.kernels.launch import (
    Launch,
    Room,
    Spec,
    describe,
    describe_turns,
    room_of,
    tile_of,
)
from harness.cache.kernels.tiles import load_finished, load_time, load_turns, turn_pairs
from harness.cache.positions import Turns


class Plan(NamedTuple):
    """Compile-time constants of a launch.

    key, value: planes of the stored keys and values.
    queries, block: queries and tokens of a tile of logits.
    time: channels that rotate with the frame.
    scale: 1 / sqrt(D) times log2(e), because the kernel uses powers of two.
    """

    key: tuple[Spec, ...]
    value: tuple[Spec, ...]
    queries: int
    block: int
    time: int
    scale: float
    head_dim: int


# Triton must not specialize on numbers that change as the history grows: each would compile again.
@triton.jit(do_not_specialize=["shape", "frames_each"])
def attend_kernel(  # noqa: PLR0913  a kernel has no objects to group them in
    q,
    q_strides,
    key,
    value,
    slots,
    q_turns,
    k_turns,
    out,
    lse,
    shape,
    frames_each,
    P: tl.constexpr,
    DOT: tl.constexpr,
):
    """Attend with one tile of queries of one head to one part of the frames.

    Grid: tiles of queries, B * H, parts of the frames. out [parts, B, H, M, D], lse
    [parts, B, H, M]. shape: (H, M, F, T). q_turns: rotations of frames, applied backwards to q.
    k_turns: rotations applied to keys.
    """
    num_heads, num_queries, num_frames, num_tokens = shape
    b = (tl.program_id(1) // num_heads).to(tl.int64)
    h = (tl.program_id(1) % num_heads).to(tl.int64)
    m = tl.program_id(0) * P.queries + tl.arange(0, P.queries)
    d = tl.arange(0, P.head_dim)
    asked = (m < num_queries)[:, None]
    q_at = q + b * q_strides[0] + h * q_strides[1] + m[:, None] * q_strides[2] + d[None, :]
    top = tl.full([P.queries], float("-inf"), tl.float32)
    total = tl.zeros([P.queries], tl.float32)
    acc = tl.zeros([P.queries, P.head_dim], tl.float32)
    first = tl.program_id(2) * frames_each
    for f in range(first, tl.minimum(first + frames_each, num_frames)):
        slot = tl.load(slots + f).to(tl.int64)
        # Load q again for every frame: keeping it next to the rotated q would cost registers.
        q_frame = tl.load(q_at, mask=asked, other=0)
        # A rotation that depends on the frame alone moves out of the loop over tokens: rotating q
        # back once gives the same logits as rotating every key.
        if q_turns is not None:
            back = load_time(q_turns, f, P.time, P.head_dim)
            q_frame = turn_pairs(q_frame, back, True, P.head_dim)
        q_frame = q_frame.to(DOT)
        for start in range(0, num_tokens, P.block):
            t = start + tl.arange(0, P.block)
            live = t < num_tokens
            angles = load_turns(k_turns, f, t, live, P.time, P.head_dim)
            k = load_finished(key, P.key, angles, (b, h, slot), t, live, P.head_dim)
            # Scales and zeros are applied here, one multiply-add per element of K or V. Applying a
            # token's scale to columns of the logits and probabilities instead takes as many
            # operations for 128 queries of width 128 as it saves; the compiled loop was a quarter
            # (sm_86) to a third (sm_90) longer.
            v = load_finished(value, P.value, None, (b, h, slot), t, live, P.head_dim)
            # "ieee" matters to fp32 alone, whose products would be TF32 by default.
            s = tl.dot(q_frame, tl.trans(k.to(DOT)), input_precision="ieee") * P.scale
            # The last tile of a frame may be partly empty: exp2(-inf) = 0 leaves its rest out.
            s = tl.where(live[None, :], s, float("-inf"))
            # Online softmax: rescale earlier sums to the new maximum.
            new_top = tl.maximum(top, tl.max(s, 1))
            p = tl.exp2(s - new_top[:, None])
            shrink = tl.exp2(top - new_top)
            total = total * shrink + tl.sum(p, 1)
            acc = tl.dot(p.to(DOT), v.to(DOT), acc * shrink[:, None], input_precision="ieee")
            top = new_top
    part = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    row = part * num_queries + m
    tl.store(out + row[:, None] * P.head_dim + d[None, :], acc / total[:, None], mask=asked)
    # From powers of two back to the natural logarithm.
    tl.store(lse + row, (top + tl.log2(total)) * 0.6931471805599453, mask=m < num_queries)


def attend_packed(
    q_BHMD: Tensor,
    key_form: KernelLayout,
    key: Packed,
    value_form: KernelLayout,
    value: Packed,
    slots: Tensor,
    turns: Turns | None = None,
) -> tuple[Tensor, Tensor]:
    """Return softmax attention over stored frames [B, H, M, D] and log-sum-exp [B, H, M], fp32.

    The logits are scaled by 1 / sqrt(D); the log-sum-exp is natural, so parts of a softmax can be
    merged. Products are computed in the dtype of q.

    q_BHMD: bf16, fp16 or fp32, last dimension contiguous; rotated by position, and by the key
        quantizer's rotation if there is one. The output stays in the value quantizer's rotation.
    slots: [F] int32, the slot of each frame; F is at least 1.
    turns: rotations of the stored keys.

    Raises  ValueError: a head width that no kernel serves.
    """
    stored = (key_form, key), (value_form, value)
    launch = prepare(q_BHMD, *stored, slots, turns, room_of(q_BHMD.device))
    launch.run()
    return merge(launch.arguments["out"], launch.arguments["lse"])


def merge(out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Merge parts of a softmax: out [parts, ..., D] and lse [parts, ...] -> [..., D] and [...]."""
    if len(out) == 1:
        return out[0], lse[0]
    # Each part is divided by its own sum already, so weigh it by its share of the whole sum.
    whole = lse.logsumexp(0)
    return (out * (lse - whole).exp()[..., None]).sum(0), whole


def prepare(
    q_BHMD: Tensor,
    key: tuple[KernelLayout, Packed],
    value: tuple[KernelLayout, Packed],
    slots: Tensor,
    turns: Turns | None,
    room: Room,
) -> Launch:
    """Return the launch of `attend_packed`, without running it; it gives out and lse in parts."""
    batch, heads, num_queries, head_dim = q_BHMD.shape
    check_head_dim(head_dim)
    num_tokens, num_frames = key[1].page[0], len(slots)
    assert key[1].shape == value[1].shape
    assert q_BHMD.stride(3) == 1 and num_frames > 0
    stored_key, key_specs = describe(*key)
    stored_value, value_specs = describe(*value)
    tables, time = describe_turns(turns)
    # A rotation by time alone turns the queries back; one that also depends on the place in the
    # frame differs from key to key, so it turns the keys.
    spatial = tables is not None and tables.space is not None
    # The interpreter's product of BF16 is wrong without an error: it multiplies the raw bits.
    dot = tl.float32 if interpreted() else _DOTS[q_BHMD.dtype]
    queries, block, options = tile_of(dot, room, len(key_specs) > 1 or spatial)
    plan = Plan(
        key_specs, value_specs, queries, block, time, 1.4426950408889634 / head_dim**0.5, head_dim
    )
    rows = triton.cdiv(num_queries, queries), batch * heads
    # Few queries give few programs: divide the frames among more, until every multiprocessor has
    # one.
    each = triton.cdiv(num_frames, max(1, min(num_frames, room.num_sms // (rows[0] * rows[1]))))
    parts = triton.cdiv(num_frames, each)
    arguments = {
        "q": q_BHMD,
        "q_strides": q_BHMD.stride()[:3],
        "key": stored_key,
        "value": stored_value,
        "slots": slots,
        "q_turns": None if spatial else tables,
        "k_turns": tables if spatial else None,
        "out": q_BHMD.new_empty((parts, *q_BHMD.shape), dtype=torch.float32),
        "lse": q_BHMD.new_empty((parts, *q_BHMD.shape[:3]), dtype=torch.float32),
        "shape": (heads, num_queries, num_frames, num_tokens),
        "frames_each": each,
    }
    return Launch(attend_kernel, (*rows, parts), arguments, {"P": plan, "DOT": dot}, options)


_DOTS = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}
