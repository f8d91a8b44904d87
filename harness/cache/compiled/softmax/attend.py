"""Softmax attention on a CPU in INT8 or BF16, in as many threads as torch uses."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.cache.compiled.once import load_once
from harness.cache.compiled.softmax import loops, missing
from harness.cache.compiled.threads import in_threads

LOG2E = math.log2(math.e)
Rows = tuple[NDArray[np.float32], NDArray[np.int16]]


def attend_int8(
    q_BHTD: Tensor, k_BHND: Tensor, v_BHND: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return softmax attention and the natural log of its denominator, from 8-bit q and k.

    q and k, less the mean of the keys of a head, become INT8 with a scale per token; their products
    are INT32, the softmax is fp32, its product with v is BF16. The scale is 1 / sqrt(D).

    q, k, v: BF16 or fp32 on a CPU. bias: added to the logits, broadcasts to [B, H, N].

    Shapes  out [B, H, T, D] in the dtype of q, lse [B, H, T] fp32. A head in which a query or key
    is not finite gives NaN.
    Source  SageAttention (arXiv 2410.02367).
    Raises  RuntimeError: the processor has no units for these products.
    """
    return _attend(q_BHTD, k_BHND, v_BHND, bias, coded=True)


def attend_bf16(
    q_BHTD: Tensor, k_BHND: Tensor, v_BHND: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return softmax attention and the natural log of its denominator, from BF16 q, k and v.

    Logits and softmax are fp32; its weights are rounded to BF16, as torch's attention does it.
    Otherwise like `attend_int8`.

    Raises  TypeError: q, k or v are not BF16. RuntimeError: the processor has no units for these
            products.
    """
    if not q_BHTD.dtype == k_BHND.dtype == v_BHND.dtype == torch.bfloat16:
        raise TypeError(f"{q_BHTD.dtype}, {k_BHND.dtype} and {v_BHND.dtype}: give BF16")
    return _attend(q_BHTD, k_BHND, v_BHND, bias, coded=False)


def _attend(
    q_BHTD: Tensor, k_BHND: Tensor, v_BHND: Tensor, bias: Tensor | None, coded: bool
) -> tuple[Tensor, Tensor]:
    # Also asks the kernel for the matrix units: without its leave the process would die.
    lacking = missing()
    if lacking:
        raise RuntimeError(lacking)
    batch, num_heads, num_queries, width = q_BHTD.shape
    num_keys = k_BHND.shape[2]
    added = torch.zeros(1, 1, num_keys) if bias is None else bias.float() * LOG2E
    out = torch.empty(q_BHTD.shape, dtype=q_BHTD.dtype)
    lse = torch.empty(batch * num_heads, num_queries)
    arguments = (
        _rows(q_BHTD),
        _rows(k_BHND),
        _rows(v_BHND.bfloat16())[1],
        added.expand(batch, num_heads, num_keys).flatten(0, 1).contiguous().numpy(),
        np.float32(LOG2E / math.sqrt(width)),
        coded,
        loops.unit.CONFIG,
        _rows(out),
        lse.numpy(),
    )
    # Blocks of queries, so that threads have equal shares for any number of heads. Threads that
    # share a head both encode its keys, which takes little of the time.
    blocks = batch * num_heads * -(-num_queries // loops.BLOCK)
    in_threads(loops.attend, arguments, blocks, max(1, min(torch.get_num_threads(), blocks)))
    return out, lse.view(batch, num_heads, num_queries)


def _rows(x_BHND: Tensor) -> Rows:
    """Return x [B * H, N, D] as the loop takes it: fp32 and BF16, of which one has no heads."""
    # numba compiles a loop for each combination of dtypes; with both arrays always there, once.
    x = x_BHND.flatten(0, 1).contiguous()
    size = 0, *x.shape[1:]
    if x.dtype == torch.bfloat16:
        return np.empty(size, np.float32), x.view(torch.int16).numpy()
    return x.float().numpy(), np.empty(size, np.int16)


@cache
def load() -> None:
    """Load the loop into this process, after compiling it if no earlier process did."""
    load_once("harness.cache.compiled.softmax.attend", compile_loops)


def compile_loops() -> None:
    """Load the loop, after compiling it for this processor if no earlier process did."""
    x = torch.zeros(1, 1, 1, 1)
    attend_int8(x, x, x, None)


if __name__ == "__main__":
    compile_loops()
