"""Roofline model: seconds of a video's passes, from FLOPs and bytes over the rates of a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.api import POOL, CacheSpec, Reuse
from harness.cache.attention.base import Backend
from harness.cache.attention.fused import Fused
from harness.cache.session import anchored
from harness.models.preset import DTYPES, VideoModel
from harness.planning.history import Moment
from harness.planning.model_needs import Network
from harness.planning.rates import Ceilings
from harness.planning.storage import Storage
from harness.sampling.passes import Pass


@dataclass(frozen=True)
class Work:
    """The work of all passes of a video: arithmetic in FLOPs, memory traffic in bytes.

    staging_bytes: packed history that every pass reads and writes decoded; fused kernels only read.
    encoding_bytes: new keys and values of a chunk, and those that move between tiers, which are
        read and written packed once per chunk.
    """

    gemm_flops: float
    attention_flops: float
    staging_bytes: float
    encoding_bytes: float

    def seconds(self, ceilings: Ceilings) -> float:
        """Return a lower bound in seconds, without norms, rotations and kernel launches."""
        traffic = self.staging_bytes + self.encoding_bytes
        return (
            self.gemm_flops / ceilings.gemm_flops_per_s
            + self.attention_flops / ceilings.attention_flops_per_s
            + traffic / ceilings.copy_bytes_per_s
        )


def work(
    model: VideoModel,
    network: Network,
    storage: Storage,
    histories: Sequence[Sequence[Moment]],
    num_frames: int,
    backend: Backend,
    recached: Sequence[int] = (),
) -> Work:
    """Add up the work of all passes of a video, over all guidance branches.

    histories: the moments of each history of the video. recached: as in `VideoModel.passes`.
    Source  attention takes 4 q N C FLOPs per layer and pass: two products of 2 q N C each, for q
            queries over N tokens of width C, all query heads together.
    """
    spec, itemsize = model.spec, DTYPES[model.dtype].itemsize
    width, stored_width = (n * spec.head_dim for n in (spec.num_heads, spec.kv_heads))
    # `network.flops` are those of the longest pass; they grow with its frames.
    most_frames = model.loop.pass_frames(model.schedule, model.chunk_frames)
    frame_values = 2 * spec.tokens_per_frame * stored_width  # keys and values of one layer
    # Fused kernels decode in registers; every other backend writes decoded history and reads it.
    staged = not isinstance(backend, Fused)
    gemm = attention = staging = encoding = 0.0
    for each in _executed(model, model.passes(num_frames, recached), storage.method.reuse):
        # A pass over several chunks is charged the history of its oldest one.
        moment = histories[each.history][each.frames.start // spec.chunk_frames]
        queries, visible = len(each.frames) * spec.tokens_per_frame, _visible(spec, each)
        packed = stored = frames = 0.0
        for name, count in moment.tiers.items():
            packed += count.seen * visible * storage.total(name, moment.parts[name])
            stored += count.stored * storage.total(name, moment.parts[name])
            # A pooled frame is one token.
            frames += count.seen if name != POOL else count.seen / spec.tokens_per_frame
        history = frames * spec.tokens_per_frame * visible  # tokens, mean over layers
        decoded = 2 * history * stored_width * itemsize * spec.num_layers * staged
        for role in model.roles_of(each):
            seen = 0.0 if role.cache == "none" else history
            gemm += network.flops * len(each.frames) / most_frames
            attention += 4 * queries * (seen + queries) * width * spec.num_layers
            staging += (packed + decoded) if seen else 0.0
            # A branch that shares a cache does not store its chunk a second time.
            if each.stores == "history" and role.cache == "own":
                read = len(each.frames) + moment.moved
                encoding += read * spec.num_layers * frame_values * itemsize + stored
    return Work(gemm, attention, staging, encoding)


def _executed(model: VideoModel, passes: Iterator[Pass], reuse: Reuse | None) -> Iterator[Pass]:
    """Yield the passes of a video that a reuse policy does not skip."""
    steps = {first: len(model.schedule.times(first)) for first in (True, False)}
    for each in passes:
        step, num_steps = each.step, steps[each.history == 0 and each.frames.start == 0]
        if reuse is not None and reuse.scope == "window" and each.row is not None:
            # One decision for all chunks of the pass: rows of the step matrix count as steps.
            num_steps = each.num_rows
            step = None if step is None else each.row
        # Policies that watch a feature are counted as if they skipped nothing: its changes are
        # unknown before a run.
        if reuse is not None and reuse.feature is None and step and each.step:
            free = not reuse.guards(step, num_steps)
            if free and reuse.skips(step, num_steps, []):
                continue
        yield each


def _visible(spec: CacheSpec, each: Pass) -> float:
    """Return the share of the held frames that a pass attends to."""
    # A share, since the policy decides which frames are held: evicted ones are assumed to be spread
    # evenly over hidden and visible ones. While the history is computed again, only its sink and
    # its newest chunks exist.
    if each.recached_for is not None and spec.window is not None:
        gone = max(0, each.recached_for.start - spec.window)
        most = min(each.frames.start, spec.window - spec.chunk_frames)
        return min(1.0, (each.frames.start - gone) / max(1, most))
    # The loop may limit what a pass sees.
    if each.sees is not None:
        most = each.frames.start if spec.window is None else spec.window - spec.chunk_frames
        return min(1.0, len(each.sees) / max(1, min(each.frames.start, most)))
    # Anchored positions move the sink next to the newest frames, which hides some.
    if spec.positions != "anchored" or spec.window is None:
        return 1.0
    end = min(each.frames.stop, each.frames.start + spec.chunk_frames)
    first = max(spec.sink, end - spec.window + spec.sink)
    held = {*range(min(spec.sink, each.frames.start)), *range(first, each.frames.start)}
    _, hidden = anchored(spec, each.frames, each.step is None)
    return 1 - len(held & set(hidden)) / len(held) if held else 1.0
