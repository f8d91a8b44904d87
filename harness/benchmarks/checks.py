"""Checks correctness next to times: errors against an oracle, and allocations of a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.api import Exact
from harness.benchmarks.cases import Chunk, segments
from harness.cache.attention.base import Backend, Scratch, Segment
from harness.cache.attention.reference import Reference
from harness.cache.pages import Arena


def relative(found: Tensor, wanted: Tensor) -> float:
    """Return the L2 norm of the difference, relative to that of `wanted`."""
    # In float64: fp32 sums would round as much as is measured.
    difference = found.double() - wanted.double()
    return float(difference.norm() / wanted.double().norm())


def errors(backend: Backend, chunk: Chunk, history: Sequence[Segment]) -> tuple[float, float]:
    """Return the errors of a backend and of BF16 SDPA against fp32 attention over decoded tensors.

    BF16 SDPA gets the same decoded tensors, rounded to BF16. History has no pooled frames.
    """
    # All three attend to the same decoded tensors, so the error of the codes takes no part.
    exact = chunk.to(torch.float32)
    oracle = Reference().attend(exact.q, exact.k, exact.v, history, Scratch())
    own = backend.attend(chunk.q, chunk.k, chunk.v, history, Scratch())
    dense = F.scaled_dot_product_attention(chunk.q, *decoded(chunk, history))
    return relative(own, oracle), relative(dense, oracle)


def decoded(chunk: Chunk, history: Sequence[Segment]) -> tuple[Tensor, Tensor]:
    """Decode keys and values of history and chunk [B, H, tokens, D], in the dtype of the chunk."""
    keys, values = [], []
    for segment in history:
        size = (*chunk.k.shape[:2], segment.num_tokens, chunk.k.shape[3])
        k, v = chunk.k.new_empty(size), chunk.v.new_empty(size)
        frames = slice(0, len(segment.pages.slots))
        segment.load_keys(slice(None), frames, k, None)
        segment.load_values(slice(None), frames, v, None)
        keys.append(k)
        values.append(v)
    return torch.cat([*keys, chunk.k], 2), torch.cat([*values, chunk.v], 2)


def pooled_identity(backend: Backend, chunk: Chunk, k_BHFTD: Tensor, v_BHFTD: Tensor) -> float:
    """Return the relative difference between one token with logit bias log(n) and n copies of it.

    Softmax weights are equal in both cases, so a backend that pools must give the same output.
    Every second frame is pooled. k and v [B, H, F, T, D] have the dtype of the chunk.
    """
    # The copies are stored as a frame of their own, so both sides go through the same code.
    num_frames, num_tokens = k_BHFTD.shape[2:4]
    kept, pooled = list(range(0, num_frames, 2)), list(range(1, num_frames, 2))
    full, means, copies = (Arena(Exact(), Exact()) for _ in range(3))
    full.store(kept, k_BHFTD[:, :, kept], v_BHFTD[:, :, kept])
    k, v = (x[:, :, pooled].mean(3, True) for x in (k_BHFTD, v_BHFTD))
    means.store(pooled, k, v)
    copies.store(pooled, *(x.expand(-1, -1, -1, num_tokens, -1).contiguous() for x in (k, v)))
    bias = torch.tensor(float(num_tokens)).log().item()
    rows = segments(full) + segments(means, bias)
    wanted = segments(full) + segments(copies)
    found, exact = (
        backend.attend(chunk.q, chunk.k, chunk.v, history, Scratch()) for history in (rows, wanted)
    )
    return relative(found, exact)


def largest_new_tensor(backend: Backend, chunk: Chunk, history: Sequence[Segment]) -> int:
    """Return the bytes of the largest tensor that an attention call allocates, without its scratch.

    The scratch already exists, as in all calls of a pass but the first.
    """
    # A backend that decoded the whole history would allocate a tensor of its size.
    scratch = Scratch()
    backend.attend(chunk.q, chunk.k, chunk.v, history, scratch)
    seen = _Allocations()  # type: ignore[no-untyped-call]
    with seen:
        backend.attend(chunk.q, chunk.k, chunk.v, history, scratch)
    return seen.largest


class _Allocations(TorchDispatchMode):
    """Tracks results of all operations whose storage is not among the inputs."""

    largest: int = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and record new storage."""
        # Below autograd and every Python wrapper, so no allocation of torch's operators escapes.
        made = func(*args, **(kwargs or {}))
        # A view shares the storage of its input and allocates nothing.
        known = {_storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for x in tree_leaves(made):
            if isinstance(x, Tensor) and _storage(x) not in known:
                self.largest = max(self.largest, x.untyped_storage().nbytes())
        return made


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()
