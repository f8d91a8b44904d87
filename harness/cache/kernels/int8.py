"""Softmax attention with 8-bit queries and keys: one kernel encodes the keys, another attends.

The softmax is fp32. Its product with the values is BF16 and not FP16 as in SageAttention: values of
a BF16 model may exceed 65504, the largest FP16, and in BF16 they need no conversion.

Source  SageAttention (arXiv 2410.02367). A query has a scale of its own here, which takes no more
operations than one for a block of queries; a scale for each key would take one more per logit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.cache.kernels import check_head_dim, interpreted
from harness.cache.kernels.launch import Launch, Room, room_of, tile_of

LOG2E = tl.constexpr(1.4426950408889634)


class Plan(NamedTuple):
    """Compile-time constants of a launch.

    queries, block: queries and keys of a tile of logits. The keys of a tile share a step.
    scale: 1 / sqrt(D) times log2(e), because the kernel uses powers of two.
    """

    queries: int
    block: int
    scale: float
    head_dim: int


@triton.jit
def encode(x, top):
    """Return fp32 numbers as codes of -127 to 127 int8, and the step between codes.

    top: largest magnitude, broadcasts to x; if it is zero, codes and step are zero.
    """
    inverse = 127 / tl.where(top > 0, top, 1.0)
    # Adding 1.5 * 2**23 rounds to an integer and leaves it in the lowest bits of the float.
    return (x * inverse + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8), top / 127


# Triton must not specialize on numbers that change as the history grows: each would compile again.
@triton.jit(do_not_specialize=["shape"])
def encode_kernel(k, k_strides, mean, codes, steps, shape, P: tl.constexpr):
    """Encode one block of keys of one head, less the mean of the head's keys.

    Grid: blocks, B * H. mean [B, H, D] fp32, codes [B, H, N, D] int8, steps [B, H, blocks] fp32.
    shape: (H, N).
    """
    num_heads, num_keys = shape
    head = tl.program_id(1).to(tl.int64)
    b, h = head // num_heads, head % num_heads
    n = tl.program_id(0) * P.block + tl.arange(0, P.block)[:, None]
    d = tl.arange(0, P.head_dim)[None, :]
    live = n < num_keys
    x = tl.load(k + b * k_strides[0] + h * k_strides[1] + n * k_strides[2] + d, mask=live, other=0)
    x = tl.where(live, x.to(tl.float32) - tl.load(mean + head * P.head_dim + d), 0.0)
    code, step = encode(x, tl.max(tl.abs(x)))
    tl.store(codes + (head * num_keys + n) * P.head_dim + d, code, mask=live)
    tl.store(steps + head * tl.num_programs(0) + tl.program_id(0), step)


@triton.jit(do_not_specialize=["shape"])
def attend_kernel(  # noqa: PLR0913  a kernel has no objects to group them in
    q,
    q_strides,
    mean,
    codes,
    steps,
    v,
    v_strides,
    bias,
    bias_strides,
    out,
    lse,
    shape,
    P: tl.constexpr,
    DOT: tl.constexpr,
):
    """Attend with one tile of queries of one head to all keys.

    Grid: tiles of queries, B * H. mean, codes, steps: as `encode_kernel` has them. bias: logits to
    add [B, H, N] fp32, or None. out [B, H, M, D], lse [B, H, M] fp32. shape: (H, M, N).
    """
    num_heads, num_queries, num_keys = shape
    head = tl.program_id(1).to(tl.int64)
    b, h = head // num_heads, head % num_heads
    m = tl.program_id(0) * P.queries + tl.arange(0, P.queries)
    d = tl.arange(0, P.head_dim)
    asked = m < num_queries
    q_at = q + b * q_strides[0] + h * q_strides[1] + m[:, None] * q_strides[2] + d[None, :]
    x = tl.load(q_at, mask=asked[:, None], other=0).to(tl.float32)
    # Keys are encoded less their mean, so every logit of a query lacks q . mean. The softmax does
    # not see this; the log-sum-exp does.
    shift = tl.sum(x * tl.load(mean + head * P.head_dim + d)[None, :], 1) * P.scale
    query, q_step = encode(x, tl.max(tl.abs(x), 1)[:, None])
    q_step = tl.reshape(q_step, [P.queries]) * P.scale
    codes += head * num_keys * P.head_dim
    steps += head * tl.cdiv(num_keys, P.block)
    v += b * v_strides[0] + h * v_strides[1]
    if bias is not None:
        bias += b * bias_strides[0] + h * bias_strides[1]
    # The first tile may hold only keys whose bias is -inf: a finite maximum gives them no weight.
    top = tl.full([P.queries], -1e30, tl.float32)
    total = tl.zeros([P.queries], tl.float32)
    acc = tl.zeros([P.queries, P.head_dim], tl.float32)
    whole = num_keys // P.block * P.block
    # Whole tiles first, then the rest. Without masks, and with the multiply-add below, the loop
    # over whole tiles has 397 instead of 483 instructions (sm_90). The rest is not prefetched:
    # that would spill registers (sm_86).
    for EDGE in tl.static_range(2):
        first, last = (whole, num_keys) if EDGE else (0, whole)
        for start in tl.range(first, last, P.block, num_stages=1 if EDGE else None):
            n = start + tl.arange(0, P.block)
            live = n < num_keys
            rows = live[:, None] if EDGE else None
            zero = 0 if EDGE else None
            k = tl.load(codes + n[:, None] * P.head_dim + d[None, :], mask=rows, other=zero)
            values = tl.load(v + n[:, None] * v_strides[2] + d[None, :], mask=rows, other=zero)
            step = q_step * tl.load(steps + start // P.block)
            s = tl.dot(query, tl.trans(k)).to(tl.float32)
            if bias is None and not EDGE:
                # The maximum of the products comes first, so that each weight takes one
                # multiply-add before its power of two.
                new_top = tl.maximum(top, tl.max(s, 1) * step)
                p = tl.exp2(s * step[:, None] - new_top[:, None])
            else:
                added = tl.zeros([P.block], tl.float32)
                if bias is not None:
                    added = tl.load(bias + n * bias_strides[2], mask=live, other=0) * LOG2E
                if EDGE:
                    added = tl.where(live, added, float("-inf"))
                s = s * step[:, None] + added[None, :]
                new_top = tl.maximum(top, tl.max(s, 1))
                p = tl.exp2(s - new_top[:, None])
            # Online softmax: rescale earlier sums to the new maximum.
            shrink = tl.exp2(top - new_top)
            total = total * shrink + tl.sum(p, 1)
            acc = tl.dot(p.to(DOT), values.to(DOT), acc * shrink[:, None], input_precision="ieee")
            top = new_top
    # Codes hide what is not finite; the shift is then not finite, and shows it.
    acc = acc / total[:, None] + (shift * 0)[:, None]
    row = head * num_queries + m
    out_at = out + row[:, None] * P.head_dim + d[None, :]
    tl.store(out_at, acc.to(out.dtype.element_ty), mask=asked[:, None])
    # From powers of two back to the natural logarithm.
    tl.store(lse + row, (shift + top + tl.log2(total)) * 0.6931471805599453, mask=asked)


def attend_int8(
    q_BHMD: Tensor, k_BHND: Tensor, v_BHND: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return softmax attention and the natural log of its denominator, from 8-bit q and k.

    q, and k less the mean of the keys of a head, become INT8: q with a scale per token, k with one
    per block of 64 keys (32 before Hopper, and in the interpreter). Their products are INT32, the
    softmax is fp32, its product with v is BF16 (in the interpreter fp32, since its BF16 product is
    wrong). The scale is 1 / sqrt(D).

    q, k, v: bf16, fp16 or fp32, last dimension contiguous; v is rounded to BF16. bias: added to the
        logits, broadcasts to [B, H, N].

    Shapes  out [B, H, M, D] in the dtype of q, lse [B, H, M] fp32. A query that is not finite gives
    NaN, and a key that is not gives NaN for its head.
    Raises  ValueError: a head width that this kernel does not serve.
    """
    encoding, attending = prepare(q_BHMD, k_BHND, v_BHND, bias, room_of(q_BHMD.device))
    encoding.run()
    attending.run()
    return attending.arguments["out"], attending.arguments["lse"]


def check_width(head_dim: int) -> None:
    """Raise ValueError if the kernels do not serve heads of this width."""
    check_head_dim(head_dim)
    if head_dim < 32:  # tensor cores take 32 channels of 8 bits at a time
        raise ValueError(
            f"8-bit attention serves head widths 32, 64, 128, this model has {head_dim}: type "
            "attention=staged"
        )


def prepare(
    q_BHMD: Tensor, k_BHND: Tensor, v_BHND: Tensor, bias: Tensor | None, room: Room
) -> tuple[Launch, Launch]:
    """Return the launches of `attend_int8`, for the keys and for attention, without running them.

    The mean of the keys is computed here.
    """
    batch, heads, num_queries, head_dim = q_BHMD.shape
    num_keys = k_BHND.shape[2]
    check_width(head_dim)
    assert k_BHND.shape == v_BHND.shape == (batch, heads, num_keys, head_dim) and num_keys > 0
    assert q_BHMD.stride(3) == k_BHND.stride(3) == v_BHND.stride(3) == 1
    if bias is not None:
        bias = bias.float().expand(batch, heads, num_keys)
    dot = tl.float32 if interpreted() else tl.bfloat16
    queries, block, options = tile_of(dot, room, heavy=False)
    plan = Plan(queries, block, LOG2E.value / head_dim**0.5, head_dim)
    v = v_BHND.bfloat16()
    num_blocks = triton.cdiv(num_keys, block)
    keys = {
        "mean": k_BHND.mean(2, dtype=torch.float32),
        "codes": k_BHND.new_empty(k_BHND.shape, dtype=torch.int8),
        "steps": k_BHND.new_empty((batch, heads, num_blocks), dtype=torch.float32),
    }
    encoding = Launch(
        encode_kernel,
        (num_blocks, batch * heads),
        {"k": k_BHND, "k_strides": k_BHND.stride()[:3], **keys, "shape": (heads, num_keys)},
        {"P": plan},
        {"num_warps": 4},
    )
    attending = Launch(
        attend_kernel,
        (triton.cdiv(num_queries, queries), batch * heads),
        {
            "q": q_BHMD,
            "q_strides": q_BHMD.stride()[:3],
            **keys,
            "v": v,
            "v_strides": v.stride()[:3],
            "bias": bias,
            "bias_strides": None if bias is None else bias.stride(),
            "out": torch.empty(q_BHMD.shape, dtype=q_BHMD.dtype, device=q_BHMD.device),
            "lse": q_BHMD.new_empty(q_BHMD.shape[:3], dtype=torch.float32),
            "shape": (heads, num_queries, num_keys),
        },
        {"P": plan, "DOT": dot},
        options,
    )
    return encoding, attending
