"""Time and peak memory by phase, read after the device has finished."""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil
import torch


class Memory(Protocol):
    """Peak memory since the last reset."""

    source: str

    def reset(self) -> None:
        """Forget the peak."""

    def now(self) -> int:
        """Bytes in use."""

    def peak(self) -> tuple[int, int]:
        """Bytes in use and bytes reserved at the peak."""


class CudaMemory:
    """PyTorch's allocator: allocated and reserved bytes."""

    source = "cuda allocator"

    def __init__(self, device: torch.device) -> None:
        """Watch one device."""
        self._device = device

    def reset(self) -> None:
        """Forget the peak."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def now(self) -> int:
        """Allocated."""
        return torch.cuda.memory_allocated(self._device)

    def peak(self) -> tuple[int, int]:
        """Allocated and reserved."""
        allocated = torch.cuda.max_memory_allocated(self._device)
        return allocated, torch.cuda.max_memory_reserved(self._device)


class ResidentMemory:
    """The kernel's high-water mark of this process's resident memory (Linux)."""

    source = "process rss, high-water mark"
    _clear, _size = Path("/proc/self/clear_refs"), Path("/proc/self/statm")
    _status = Path("/proc/self/status")

    def reset(self) -> None:
        """Writing 5 sets the mark back to what is resident now."""
        self._clear.write_text("5")

    def now(self) -> int:
        """Resident bytes."""
        return int(self._size.read_text().split()[1]) * resource.getpagesize()

    def peak(self) -> tuple[int, int]:
        """Resident bytes; nothing is reserved apart from them.

        `ru_maxrss` is not used: it survives exec and is never reset, so a process that a larger one
        started would report the peak of its parent.
        Raises  OSError: the kernel does not tell the mark.
        """
        for line in self._status.read_bytes().splitlines():
            if line.startswith(b"VmHWM:"):
                resident = int(line.split()[1]) * 1024  # told in KiB
                return resident, resident
        raise OSError(f"{self._status} has no VmHWM")


class SampledMemory:
    """Resident memory at the end of a phase, where the kernel keeps no mark that can be reset."""

    source = "process rss, end of phase"

    def reset(self) -> None:
        """Nothing to forget."""

    def now(self) -> int:
        """Resident bytes."""
        return int(psutil.Process().memory_info().rss)

    def peak(self) -> tuple[int, int]:
        """Resident bytes now."""
        return self.now(), self.now()


def memory_of(device: torch.device) -> Memory:
    """The best source there is for a device."""
    if device.type == "cuda":
        return CudaMemory(device)
    resident = ResidentMemory()
    try:
        resident.reset()
        resident.peak()
    except OSError:  # no Linux, or a sandbox that leaves these files out
        return SampledMemory()
    return resident


@dataclass
class TimedPass:
    """One pass of the network, and what the reuse policy decided on it.

    chunk, step, branch: as in `harness.sampling.passes.Observer.phase`. time_s: at its end, since
    the video began.
    drift, accumulated: None where nothing was decided.
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


class Meter:
    """Seconds, peaks and passes of one video, by phase."""

    def __init__(
        self, device: torch.device, memory: Memory, tick: Callable[[], None] | None = None
    ) -> None:
        """`tick` is called after every network pass.

        `components` gives the bytes of what is known to be held, by what it is; `ledgers` are its
        values at the peak of each phase, with `activations` (what the phase itself took on top of
        what was there) and `other` (what was there and is not known), so that they add up.
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
        """Passes of the network, skipped ones included."""
        return len(self.passes)

    @property
    def num_reused(self) -> int:
        """Passes that were skipped."""
        return sum(each.reused for each in self.passes)

    @property
    def chunk_s(self) -> list[float]:
        """Seconds of the passes of each chunk of the video."""
        found: defaultdict[int, float] = defaultdict(float)
        for each in self.passes:
            if each.chunk is not None:
                found[each.chunk] += each.seconds
        return [found[chunk] for chunk in range(max(found, default=-1) + 1)]

    @contextmanager
    def phase(
        self, name: str, chunk: int | None = None, step: int | None = None, branch: int = 0
    ) -> Iterator[None]:
        """Time a block and take its peak; phases of the same name add up."""
        is_pass = name in ("denoise", "commit")
        if is_pass:
            self.passes.append(TimedPass(name, chunk, step, branch))
        self._synchronize()
        self._memory.reset()
        unknown = self._memory.now() - sum(self.components().values())
        start = time.perf_counter()
        yield
        self._synchronize()
        end = time.perf_counter()
        self.seconds[name] += end - start
        used, reserved = self._memory.peak()
        if used > self.peaks[name]:
            self.peaks[name] = used
            self.ledgers[name] = self._explain(unknown, used)
        self.peak_reserved[name] = max(self.peak_reserved[name], reserved)
        if is_pass:
            self.passes[-1].seconds, self.passes[-1].time_s = end - start, end - self.start
            if self._tick is not None:
                self._tick()

    def reused(self) -> None:
        """Mark the pass under way as skipped."""
        self.passes[-1].reused = True

    def drifted(self, drift: float, accumulated: float) -> None:
        """Keep what was decided on the pass under way by."""
        self.passes[-1].drift, self.passes[-1].accumulated = drift, accumulated

    def include(self, other: Meter) -> None:
        """Add what was measured before this video began."""
        for name, seconds in other.seconds.items():
            self.seconds[name] += seconds
            if other.peaks[name] > self.peaks[name]:
                self.peaks[name], self.ledgers[name] = other.peaks[name], other.ledgers[name]
        for name, reserved in other.peak_reserved.items():
            self.peak_reserved[name] = max(self.peak_reserved[name], reserved)

    def _explain(self, unknown: int, peak: int) -> dict[str, int]:
        """The parts of a peak; what was there before and is not known is named as such.

        Room that was taken and never written to is known but not resident on a CPU: then `other`
        is smaller by it.
        """
        parts = self.components()
        known = sum(parts.values())
        activations = max(0, peak - known - unknown)
        return {**parts, "activations": activations, "other": peak - known - activations}

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
