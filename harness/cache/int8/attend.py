"""Softmax attention on a CPU with 8-bit queries and keys, one head and one tile at a time."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from llvmlite.binding import get_host_cpu_name
from numpy.typing import NDArray
from torch import Tensor

from harness.cache.compiled import FOLDER
from harness.system.logs import log

numba.config.CACHE_DIR = str(FOLDER / f"numba-{numba.__version__}")  # read when loops are defined

from harness.cache.int8 import loops  # noqa: E402

# numba compiles again if any of these changes.
_STATE = loops.__file__, Path(loops.__file__).stat().st_mtime_ns, get_host_cpu_name()
_MARK = FOLDER / f"int8-{numba.__version__}-{sha256(repr(_STATE).encode()).hexdigest()[:16]}"

# Queries and keys of a tile: its products, 1 MiB of INT32, stay in the cache of a core.
QUERIES, KEYS = 512, 512
LOG2E = math.log2(math.e)
Floats = NDArray[np.float32]


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
    """
    batch, num_heads, num_queries, _ = q_BHTD.shape
    num_keys = k_BHND.shape[2]
    out, lse = torch.empty_like(q_BHTD), q_BHTD.new_empty(q_BHTD.shape[:3], dtype=torch.float32)
    added = torch.zeros(1, 1, num_keys) if bias is None else bias.float() * LOG2E
    added = added.expand(batch, num_heads, num_keys)
    parts = -(-num_queries // QUERIES)
    step = -(-num_queries // parts)  # parts of equal size
    products = torch.empty(step * KEYS, dtype=torch.int32)
    weights = torch.empty(step * KEYS, dtype=torch.bfloat16)
    tops, totals = np.empty(step, np.float32), np.empty(step, np.float32)
    for b in range(batch):
        for h in range(num_heads):
            q, k, v = q_BHTD[b, h], k_BHND[b, h], v_BHND[b, h].bfloat16()
            head_bias = added[b, h].contiguous().numpy()
            # Every logit of a query shifts by q . mean, so the softmax does not change. Keys
            # without what they share are small, and so are the steps of their codes.
            mean_D = np.empty(k.shape[1], np.float32)
            loops.take_mean(*_rows(k), mean_D)
            k_codes, k_scales = _quantize(k, mean_D, 1)
            factor = LOG2E / math.sqrt(q.shape[1])  # logits in units of log2
            q_codes, q_scales = _quantize(q, np.zeros_like(mean_D), factor)
            shift = q.float() @ torch.from_numpy(mean_D) * (factor / LOG2E)
            for start in range(0, num_queries, step):
                queries = slice(start, min(start + step, num_queries))
                size = queries.stop - start
                best, sums = np.full(size, loops.LOWEST), np.zeros(size, np.float32)
                sum_TD = np.zeros(q[queries].shape, np.float32)
                for first in range(0, num_keys, KEYS):
                    keys = slice(first, min(first + KEYS, num_keys))
                    shape = size, keys.stop - first
                    product = products[: math.prod(shape)].view(shape)
                    weight = weights[: math.prod(shape)].view(shape)
                    torch._int_mm(q_codes[queries], k_codes[keys].T, out=product)
                    loops.weigh(
                        product.numpy(),
                        q_scales[queries],
                        k_scales[keys],
                        head_bias[keys],
                        weight.view(torch.int16).numpy(),
                        tops[:size],
                        totals[:size],
                    )
                    part = weight @ v[keys]
                    loops.merge(
                        part.view(torch.int16).numpy(),
                        tops[:size],
                        totals[:size],
                        sum_TD,
                        best,
                        sums,
                    )
                # Codes hide what is not finite; the shift is then not finite, and shows it.
                sum_TD /= sums[:, None]
                out[b, h, queries] = torch.from_numpy(sum_TD) + 0 * shift[queries, None]
                of_tiles = torch.from_numpy(best / np.float32(LOG2E) + np.log(sums))
                lse[b, h, queries] = of_tiles + shift[queries]
    return out, lse


def _rows(x_ND: Tensor) -> tuple[Floats, NDArray[np.int16]]:
    """Return x as the loops take rows: as fp32 or as BF16, the other without rows."""
    x = x_ND.contiguous()
    if x.dtype == torch.bfloat16:
        return np.empty((0, x.shape[1]), np.float32), x.view(torch.int16).numpy()
    return x.float().numpy(), np.empty((0, x.shape[1]), np.int16)


def _quantize(x_ND: Tensor, mean_D: Floats, factor: float) -> tuple[Tensor, Floats]:
    """Return (x - mean) * factor as codes [N, D] int8 and their scales [N]."""
    codes, scales = torch.empty(x_ND.shape, dtype=torch.int8), np.empty(len(x_ND), np.float32)
    loops.quantize(*_rows(x_ND), mean_D, np.float32(factor), codes.numpy(), scales)
    return codes, scales


@cache
def load() -> None:
    """Load the loops into this process, after compiling them if no earlier process did."""
    # Another process compiles, whose memory is in no measured peak; see the loops of the cache.
    if not _MARK.exists():
        log.info("compiling the loops of attention=int8, once on this machine")
        subprocess.run([sys.executable, "-m", "harness.cache.int8.attend"], check=False)
    compile_loops()


def compile_loops() -> None:
    """Load the loops, after compiling them for this processor if no earlier process did."""
    x: Any = torch.zeros(1, 1, 1, 1)
    attend_int8(x, x, x, None)
    _MARK.touch()


if __name__ == "__main__":
    compile_loops()
