"""Counts the arithmetic of a video: matrices, self-attention and cross-attention, pass by pass.

The published totals of FlowCache's paper come out of these functions, once for the work that each
system really does and once for what its authors count.
"""

from __future__ import annotations

from collections.abc import Callable

from harness.cache.traffic import Arithmetic
from harness.models.preset import VideoModel
from harness.sampling.guidance import Role
from harness.sampling.passes import Pass


def video_flops(
    model: VideoModel,
    num_frames: int,
    text_rows: int = 0,
    commits: bool = True,
    finished: int | None = None,
    runs: Callable[[Pass, Role], bool] = lambda each, role: True,
) -> float:
    """Return the FLOPs of all passes of a video, without text encoder and decoder.

    num_frames: latent frames. text_rows: rows of the text that cross-attention reads.
    commits: whether to count passes that only store a chunk.
    finished: the most finished chunks that a pass reads, for policies that keep so many; None for
        all that the model's loop shows.
    runs: whether a pass runs in a branch; the passes that a reuse policy skipped do not.
    """
    size, per_frame = model.chunk_frames, model.spec.tokens_per_frame
    work = Arithmetic()
    done = 0  # frames that are finished and stored
    for each in model.loop.passes(model.schedule, num_frames, size):
        # The first pass over the first frames begins a new history, in which nothing is stored yet.
        if each.frames.start == 0 and each.step in (0, None) and each.row in (0, None):
            done = 0
        queries = len(each.frames) * per_frame
        # A pass sees its own frames, and earlier ones as far as loop, window and policy allow.
        earlier = each.frames.start if each.sees is None else len(each.sees)
        if model.window is not None:
            # The window includes the chunk that is being made.
            earlier = min(earlier, model.window - size)
        if finished is not None:
            # Chunks that are still under way are not the policy's to evict, so they stay visible.
            hidden = max(0, min(done, each.frames.start) - finished * size)
            earlier = min(earlier, each.frames.start - hidden)
        own_pairs = queries**2
        if each.causal:
            # A chunk sees itself and the chunks before it: n (n + 1) / 2 of n * n pairs of chunks.
            num_chunks = -(-len(each.frames) // size)
            own_pairs = own_pairs * (num_chunks + 1) // (2 * num_chunks)
        for role in model.roles_of(each):
            if (each.step is None and not commits) or not runs(each, role):
                continue
            seen = 0 if role.cache == "none" else earlier * per_frame
            work += Arithmetic(queries, queries * seen + own_pairs, queries * text_rows)
        if each.stores == "history":
            done = max(done, each.frames.stop)
    return model.dims.num_layers * model.flops(work)
