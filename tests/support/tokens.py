"""Draw tokens of these frames, oldest first; each head has lost `gone` tokens of history.

The last chunk of frames is the new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from harness.api import CacheSpec, Revision, Tokens, VideoSize, rows_at
from methods.retention.tokens.budgeted import Budgeted
from methods.retention.tokens.order import reordered

GRID, CHUNK, WIDTH = (2, 3), 3, 8
SIZE = GRID[0] * GRID[1]  # tokens of a frame


def spec_of(heads: int = 2) -> CacheSpec:
    return CacheSpec(1, heads, WIDTH, GRID, CHUNK)


def room_of(num_frames: int = 60) -> VideoSize:
    return VideoSize(SIZE, num_frames, frame_bytes=10, bf16_frame_bytes=10)


def draw(
    frames: Sequence[int] | int, gone: int = 0, seed: int = 0, batch: int = 2, heads: int = 2
) -> Tokens:
    """Random tokens of these frames, oldest first; of history each head lost `gone` of its own.

    The last chunk of frames is the new one.
    """
    frames = range(frames) if isinstance(frames, int) else frames
    random = torch.Generator().manual_seed(seed)
    num = len(frames) * SIZE
    new = CHUNK * SIZE
    kept = torch.stack(
        [
            torch.cat([torch.randperm(num - new, generator=random)[gone:].sort().values,
                       torch.arange(num - new, num)])
            for _ in range(batch * heads)
        ]
    ).view(batch, heads, -1)  # fmt: skip
    frame = torch.tensor(list(frames)).repeat_interleave(SIZE)[kept]
    place = torch.arange(SIZE).repeat(len(frames))[kept]
    shape = (*kept.shape, WIDTH)
    key, value = (torch.randn(shape, generator=random) for _ in "kv")
    return Tokens(
        key=key,
        value=value,
        rotated=torch.randn(shape, generator=random) + 0.5,
        query=torch.randn((batch, heads, new, WIDTH), generator=random),
        frame=frame,
        place=place,
        count=torch.ones(kept.shape),
        note=torch.zeros(kept.shape),
        num_new=new,
        spec=spec_of(heads),
    )


def shuffled(tokens: Tokens, seed: int) -> tuple[Tokens, Tensor]:
    """Return the tokens with each head's history in another order, and that order."""
    random = torch.Generator().manual_seed(seed)
    num = tokens.frame.shape[2]
    old = num - tokens.num_new
    order = torch.stack(
        [
            torch.cat([torch.randperm(old, generator=random), torch.arange(old, num)])
            for _ in range(tokens.frame.shape[0] * tokens.frame.shape[1])
        ]
    ).view(tokens.frame.shape)
    return reordered(tokens, order), order


def joined(old: Tokens, new: Tokens) -> Tokens:
    """Concatenate stored tokens and a new chunk."""
    both = {
        name: torch.cat([getattr(old, name), getattr(new, name)], 2)
        for name in ("key", "value", "rotated", "frame", "place", "count", "note")
    }
    return replace(new, **both)  # type: ignore[arg-type]


def applied(tokens: Tokens, revision: Revision) -> Tokens:
    """Return the tokens that a store holds after a revision."""
    rows = {
        name: rows_at(getattr(tokens, name), revision.index) for name in ("key", "value", "rotated")
    }
    flat = {
        name: getattr(tokens, name).gather(2, revision.index)
        for name in ("frame", "place", "count", "note")
    }
    given = {n: getattr(revision, n) for n in ("key", "value", "count", "note", "frame")}
    given = {name: part for name, part in given.items() if part is not None}
    return replace(tokens, **{**rows, **flat, **given})


def video(policy: Budgeted, num_chunks: int, seed: int = 0) -> list[tuple[Tokens, Tokens]]:
    """Run a policy over a video; return for each chunk the tokens seen and those stored."""
    steps: list[tuple[Tokens, Tokens]] = []
    for chunk in range(num_chunks):
        frames = range(CHUNK * chunk, CHUNK * (chunk + 1))
        new = draw(frames, seed=seed + chunk)
        seen = joined(steps[-1][1], new) if steps else new
        steps.append((seen, applied(seen, policy.revise(seen))))
    return steps


def names(tokens: Tokens, index: Tensor) -> Tensor:
    """Return an order-independent id of the tokens at an index: frame * SIZE + place."""
    return (tokens.frame * SIZE + tokens.place).gather(2, index)


def attention(query: Tensor, key: Tensor, value: Tensor, count: Tensor) -> Tensor:
    """Compute dense attention [B, H, T, D] with the logit bias log(count)."""
    logits = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + count.log()[:, :, None]
    out: Tensor = logits.softmax(-1) @ value
    return out
