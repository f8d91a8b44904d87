"""Measures time and peak memory by phase, after the device has finished."""

from __future__ import annotations

import os
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Protocol

import psutil
import torch


class Memory(Protocol):
    """A source of memory use and of its peak since the last reset, in bytes."""

    source: str

    def reset(self) -> None:
        """Reset the peak to the current use."""

    def now(self) -> int:
        """Return the bytes in use."""

    def peak(self) -> tuple[int, int]:
        """Return the largest bytes in use and the largest bytes reserved."""


class CudaMemory:
    """Bytes allocated and reserved by PyTorch's CUDA allocator."""

    source = "cuda allocator"

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def reset(self) -> None:
        """Reset the allocator's peak."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def now(self) -> int:
        """Return the allocated bytes."""
        return torch.cuda.memory_allocated(self._device)

    def peak(self) -> tuple[int, int]:
        """Return the largest allocated and the largest reserved bytes."""
        allocated = torch.cuda.max_memory_allocated(self._device)
        return allocated, torch.cuda.max_memory_reserved(self._device)


class ResidentMemory:
    """This process's resident memory and the kernel's high-water mark of it (Linux)."""

    source = "process rss, high-water mark"
    folder = Path("/proc/self")  # the kernel's files about this process

    def __init__(self) -> None:
        """Open the kernel's files about this process.

        Raises  OSError: the kernel has no such files.
        """
        # Open the files once: opening three in every pass takes long beside a small network's pass.
        # They describe the process that opened them, so a forked child needs a new
        # `ResidentMemory`.
        self._clear = FileIO(self.folder / "clear_refs", "w")
        self._size = FileIO(self.folder / "statm")
        # `statm` has no high-water mark.
        self._status = FileIO(self.folder / "status")

    def reset(self) -> None:
        """Reset the high-water mark to the resident memory."""
        self._clear.write(b"5")  # 5: the kernel's code for this

    def now(self) -> int:
        """Return the resident bytes."""
        # At offset 0 the kernel composes the text anew.
        pages = os.pread(self._size.fileno(), 256, 0).split()[1]
        return int(pages) * resource.getpagesize()

    def peak(self) -> tuple[int, int]:
        """Return the high-water mark, as used and as reserved bytes.

        Raises  OSError: the kernel does not report the mark.
        """
        # Not ru_maxrss: it survives exec and is never reset, so the child of a larger process
        # would report the peak of its parent.
        _, found, rest = os.pread(self._status.fileno(), 8192, 0).partition(b"VmHWM:")
        if not found:
            raise OSError(f"{self._status.name} has no VmHWM")
        resident = int(rest.split(maxsplit=1)[0]) * 1024  # the file counts KiB
        return resident, resident


class SampledMemory:
    """Resident memory at the end of a phase, for kernels without a high-water mark to reset."""

    source = "process rss, end of phase"

    def reset(self) -> None:
        """Do nothing: there is no peak to reset."""

    def now(self) -> int:
        """Return the resident bytes."""
        return int(psutil.Process().memory_info().rss)

    def peak(self) -> tuple[int, int]:
        """Return the resident bytes at this moment, twice."""
        return self.now(), self.now()


def memory_of(device: torch.device) -> Memory:
    """Return the most exact source of memory use that works for a device."""
    if device.type == "cuda":
        return CudaMemory(device)
    # Try it, and do not go by the system's name: a sandbox on Linux may lack the files or the mark.
    try:
        resident = ResidentMemory()
        resident.reset()
        resident.peak()
    except OSError:
        return SampledMemory()
    return resident


@dataclass
class TimedPass:
    """One pass of the network, and the decision of the reuse policy.

    chunk, step, branch: as in `harness.sampling.passes.Observer.phase`.
    time_s: end of the pass in seconds since the video began. seconds: its duration.
    drift, accumulated: None if the policy made no decision.
    kv_age: of a pass that stored its chunk in the history, as in
        `harness.sampling.passes.Observer.stored`; None for others.
    """

    phase: str
    chunk: int | None
    step: int | None
    branch: int = 0
    time_s: float = 0.0
    seconds: float = 0.0
    reused: bool = False
    drift: float | None = None
    accumulated: float | None = None
    kv_age: int | None = None


class Meter:
    """Seconds, peaks and passes of one video, by phase."""

    def __init__(
        self, device: torch.device, memory: Memory, tick: Callable[[], None] | None = None
    ) -> None:
        """Start the clock of a video.

        tick: called after every pass of the network.

        Attributes
        components: a function that returns the bytes of all known tensors by component.
        ledgers: these values at the peak of each phase, with two entries more, so that they add up
            to the peak: `activations`, memory that the phase itself allocated, and `other`, memory
            allocated before the phase that no component accounts for.
        """
        self.seconds: dict[str, float] = defaultdict(float)
        self.peaks: dict[str, int] = defaultdict(int)
        self.peak_reserved: dict[str, int] = defaultdict(int)
        self.passes: list[TimedPass] = []
        self.ledgers: dict[str, dict[str, int]] = {}
        self.components: Callable[[], dict[str, int]] = dict
        self.start = time.perf_counter()
        self._device = device
        self._memory = memory
        self._tick = tick

    @property
    def num_passes(self) -> int:
        """Number of passes of the network, skipped ones included."""
        return len(self.passes)

    @property
    def num_reused(self) -> int:
        """Number of skipped passes."""
        return sum(each.reused for each in self.passes)

    @property
    def chunk_s(self) -> list[float]:
        """Seconds of all passes of each chunk, in order of chunks."""
        # A joint pass over several chunks is counted once, for the oldest of them.
        found: defaultdict[int, float] = defaultdict(float)
        for each in self.passes:
            if each.chunk is not None:
                found[each.chunk] += each.seconds
        return [found[chunk] for chunk in range(max(found, default=-1) + 1)]

    @contextmanager
    def phase(
        self, name: str, chunk: int | None = None, step: int | None = None, branch: int = 0
    ) -> Iterator[None]:
        """Measure time and peak of a block; blocks of the same name are added up."""
        is_pass = name in ("denoise", "commit")
        if is_pass:
            # Added before the pass runs: the sampler reports skips and drifts during it. A commit
            # pass is never skipped, so what it stores has age 0.
            age = 0 if name == "commit" else None
            self.passes.append(TimedPass(name, chunk, step, branch, kv_age=age))
        # CUDA calls return before the device is done: earlier work must not count for this block.
        self._synchronize()
        self._memory.reset()
        # Memory in use that no component explains, such as libraries and the allocator's slack.
        unknown = self._memory.now() - sum(self.components().values())
        start = time.perf_counter()
        # No `finally`: if the block raises, its video fails and has no measurements.
        yield
        self._synchronize()
        end = time.perf_counter()
        self.seconds[name] += end - start
        used, reserved = self._memory.peak()
        # Keep the components of the largest block only: those of several blocks would not add up.
        if used > self.peaks[name]:
            self.peaks[name] = used
            # Split the peak into its components, `activations` and `other`. On a CPU, memory that
            # was allocated but never written to is a known component and not resident. `other` is
            # smaller by that much, and may be negative.
            parts = self.components()
            known = sum(parts.values())
            activations = max(0, used - known - unknown)
            other = used - known - activations
            self.ledgers[name] = {**parts, "activations": activations, "other": other}
        self.peak_reserved[name] = max(self.peak_reserved[name], reserved)
        if is_pass:
            self.passes[-1].seconds, self.passes[-1].time_s = end - start, end - self.start
            if self._tick is not None:
                self._tick()

    def reused(self) -> None:
        """Mark the current pass as skipped."""
        self.passes[-1].reused = True

    def stored(self, age: int) -> None:
        """Record the age of the keys and values that the current pass stored."""
        self.passes[-1].kv_age = age

    @property
    def locked(self) -> dict[int, int]:
        """Chunks of which the last half of the steps or more was skipped, with the first of these.

        A policy that adds up drifts can do this: once a constant displacement replaces the steps,
        the drift hardly changes.
        """
        found = {}
        chunks: defaultdict[int, list[bool]] = defaultdict(list)
        for each in self.passes:
            # One branch is enough to see it. Commit passes have no step and are never skipped.
            if each.step is not None and each.branch == 0 and each.chunk is not None:
                chunks[each.chunk].append(each.reused)
        for chunk, reused in chunks.items():
            # All steps from `first` on were skipped. A chunk of one step shows nothing.
            first = max((i for i, skipped in enumerate(reused) if not skipped), default=-1) + 1
            if len(reused) > 1 and len(reused) - first >= len(reused) / 2:
                found[chunk] = first
        return found

    def drifted(self, drift: float, accumulated: float) -> None:
        """Record the drift that the reuse policy decided on for the current pass."""
        self.passes[-1].drift, self.passes[-1].accumulated = drift, accumulated

    def include(self, other: Meter) -> None:
        """Add the measurements of another meter, such as that of encoding the prompt."""
        # Times add up; of two peaks the larger counts, with the components that explain it.
        for name, seconds in other.seconds.items():
            self.seconds[name] += seconds
            if other.peaks[name] > self.peaks[name]:
                self.peaks[name], self.ledgers[name] = other.peaks[name], other.ledgers[name]
        for name, reserved in other.peak_reserved.items():
            self.peak_reserved[name] = max(self.peak_reserved[name], reserved)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
