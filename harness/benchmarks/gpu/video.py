"""Items 4 and 5: whole videos of the true network, and the parts of their peaks.

Only the network runs, with random weights: no text encoder, no decoder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from hydra.utils import instantiate
from torch import Tensor

from harness.api import CacheSpec, Method
from harness.benchmarks.cases import FORMATS, PRQ, SOFT_PRUNE, method_of
from harness.benchmarks.checks import largest_new_tensor
from harness.benchmarks.lab import Lab
from harness.benchmarks.timing import Spread, Wall, interleave, self_timed
from harness.cache import kernels
from harness.cache.attention.base import Backend, Scratch, Segment
from harness.cache.integration import Packed
from harness.config.compose import configured
from harness.models.preset import DTYPES, VideoModel
from harness.runs.meter import Memory, memory_of
from harness.sampling.noise import SeededNoise
from harness.sampling.passes import NullObserver
from harness.system.units import GIB

METHODS = ("bf16", "rtn_int4", SOFT_PRUNE, "kivi_int4", "quarot_int4", PRQ, "rtn_int2")
QUANTIZED, PRUNED = 1.05, 0.80  # upper bounds, relative to BF16's time
KV_ERROR, MARGIN_GIB, BUFFER = 0.01, 0.25, 1.0


@dataclass(frozen=True)
class Peak:
    """Bytes of one video at its peak and at its end; kv: from the ledger."""

    peak: int
    weights: int
    kv: int
    scratch: int
    grown: int  # growth of device memory from before the cache to after the last chunk

    @property
    def rest(self) -> int:
        """Bytes of activations, latents and the prompt's keys and values."""
        return self.peak - self.weights - self.kv - self.scratch


class Network:
    """The model of the bench, built once, and its videos."""

    def __init__(self, lab: Lab) -> None:
        """Build random weights on the device and a prompt of random rows."""
        self.model: VideoModel = instantiate(configured(*lab.sizes.model)["model"])
        self.device = lab.device
        self.memory: Memory = memory_of(lab.device)
        self.sampler = self.model.build(lab.device, Path())
        self.weights = sum(w.nbytes for w in self.sampler.network.state_dict().values())
        length: int = cast(Any, self.model.text).length
        rows = torch.randn(length, self.model.dims.text_dim).to(DTYPES[self.model.dtype])
        self.text_kv = self.model.text_kv(self.sampler, rows)

    def video(self, method: Method, backend: Backend, spec: CacheSpec, num_frames: int) -> Peak:
        """Run all passes of a video and return its peak."""
        noise = SeededNoise(0, self.model.latent_shape(num_frames))
        self.memory.reset()
        before = self.memory.now()
        session = Packed().session(spec, method, backend, num_frames, self.device)
        for _ in self.sampler.sample(session, self.text_kv, noise, num_frames, NullObserver()):
            pass
        peak = self.memory.peak()[0]
        scratch = session.ledger().get("scratch", 0)
        # What the video leaves in memory, less scratch, is its keys and values: `peaks` compares.
        grown = self.memory.now() - before - scratch
        return Peak(peak, self.weights, session.stored_bytes, scratch, grown)


class Timed(Backend):
    """Backend that times its calls."""

    name = "timed"

    def __init__(self, inner: Backend, device: torch.device) -> None:
        self._inner, self._cuda = inner, device.type == "cuda"
        self._marks: list[tuple[Any, Any]] = []

    def attend(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        history: Sequence[Segment],
        scratch: Scratch,
    ) -> Tensor:
        """Time the inner backend's call."""
        start = self._mark()
        out = self._inner.attend(q_BHTD, k_BHTD, v_BHTD, history, scratch)
        self._marks.append((start, self._mark()))
        return out

    def seconds(self) -> float:
        """Return the seconds of all calls since the last query, which the device has finished."""
        marks, self._marks = self._marks, []
        if self._cuda:
            return float(sum(start.elapsed_time(end) for start, end in marks)) / 1e3
        return float(sum(end - start for start, end in marks))

    def _mark(self) -> Any:
        # Events do not wait for the GPU, so timing does not slow the video.
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def videos(lab: Lab) -> None:
    """Time every method, the window first; keep the peaks for the next item."""
    network = Network(lab)
    end, lab.notes["peaks"] = lab.deadline, {}
    contracts = {f"window {lab.sizes.window}": lab.sizes.window, "full history": None}
    for i, contract in enumerate(lab.within(list(contracts))):
        left = len(contracts) - i  # the remaining time is shared equally
        lab.deadline = time.perf_counter() + (end - time.perf_counter()) / left
        spec = replace(network.model.spec, window=contracts[contract])
        cases = {name: Videos(lab, network, name, spec) for name in METHODS}
        actions = {name: each.make for name, each in cases.items()}
        # `Videos` has warmed up with a short video already.
        times = interleave(actions, self_timed, lab.sizes.videos, 0, lab.deadline)
        for name, each in cases.items():
            target = None if name == "bf16" else PRUNED if name == SOFT_PRUNE else QUANTIZED
            attention = Spread.of(each.attention_s)
            note = f"{times.of(name).middle:.3f} s, attention {attention.middle:.3f} s"
            # Where kernels cannot run, the row says why.
            note = "; ".join(filter(None, (note, times.note, kernels.missing(lab.device))))
            more = {"seconds": times.seconds[name], "attention_s": each.attention_s}
            ratio = times.ratio(name, "bf16")
            lab.add(f"{name}, {contract}", ratio, "x", target=target, note=note, more=more)
        lab.notes["peaks"][contract] = {name: each.peak for name, each in cases.items()}
        lab.deadline = end


class Videos:
    """Videos of one method under one window."""

    def __init__(self, lab: Lab, network: Network, name: str, spec: CacheSpec) -> None:
        self._network, self._spec, self._num_frames = network, spec, lab.sizes.video
        self._method = method_of(name, lab.sizes.model[0].removeprefix("model="))
        self._method.check(spec)
        backend = next(iter(lab.backends.values())).resolve(spec, self._method, lab.device)
        self._backend, self._wall = Timed(backend, lab.device), Wall(lab.device)
        # A short video compiles kernels and fills caches; its attention is not counted.
        self.peak = self._video(min(self._num_frames, 2 * spec.chunk_frames))
        self._wall(lambda _: None, 0)  # waits for the device
        self._backend.seconds()
        self.attention_s: list[float] = []

    def make(self, number: int) -> float:
        """Return the seconds of a video; record those of its attention, and its peak."""

        def video(_: int) -> None:
            self.peak = self._video(self._num_frames)

        seconds = self._wall(video, number)
        self.attention_s.append(self._backend.seconds())
        return seconds

    def _video(self, num_frames: int) -> Peak:
        return self._network.video(self._method, self._backend, self._spec, num_frames)


def peaks(lab: Lab) -> None:
    """Report the parts of the videos' peaks, and the allocations of one call."""
    for contract, found in lab.notes.get("peaks", {}).items():
        base: Peak = found["bf16"]
        for name, each in found.items():
            case = f"{name}, {contract}"
            parts = ("weights", "kv", "scratch", "rest")
            more = {f"{part}_gib": getattr(each, part) / GIB for part in parts}
            note = ", ".join(f"{part} {getattr(each, part) / GIB:.3f}" for part in parts)
            lab.add(case, each.peak / GIB, "GiB", note=note, more=more)
            # The ledger counts tensors, the allocator blocks: a gap is memory that nobody counts.
            error = abs(each.grown / each.kv - 1)
            lab.add(f"{case}, allocator / ledger - 1", error, "", target=KV_ERROR)
            # Packing should lower the peak by what it saves in keys and values, and cost nothing
            # else.
            over = (each.peak - (base.peak - (base.kv - each.kv))) / GIB
            lab.add(f"{case}, above BF16 less what is packed", over, "GiB", target=MARGIN_GIB)
    chunk, backend = lab.chunk(), next(iter(lab.backends.values()))
    for name in lab.within(FORMATS):
        history = lab.history(name, lab.sizes.histories[0])
        window = replace(lab.sizes.frame, num_frames=lab.sizes.window)
        share = largest_new_tensor(backend, chunk, history) / (window.bf16_bytes / 2)
        note = "of the layer's keys in BF16; operations of torch are watched"
        lab.add(f"{name}, largest tensor of a call", share, "", target=BUFFER, note=note)
