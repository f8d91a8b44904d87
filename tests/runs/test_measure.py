from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from mmap import PAGESIZE, mmap
from pathlib import Path

import pytest
import torch

from harness.runs.meter import Meter, ResidentMemory, memory_of
from harness.runs.record import largest
from tests.conftest import ROOT

CPU = torch.device("cpu")
MIB = 2**20


def test_phases_of_one_name_add_up_and_passes_are_counted() -> None:
    ticks = []
    meter = Meter(CPU, memory_of(CPU), tick=lambda: ticks.append(1))
    for name in ("text", "denoise", "denoise", "commit", "decode"):
        with meter.phase(name):
            time.sleep(0.01)
    assert meter.seconds["denoise"] >= 0.02
    assert meter.seconds["text"] >= 0.01
    assert meter.num_passes == len(ticks) == 3


def test_each_phase_has_its_own_peak() -> None:
    """A known allocation, freed before the next phase, is seen in its own phase only."""
    memory = memory_of(CPU)
    if not isinstance(memory, ResidentMemory):
        pytest.skip("this kernel keeps no peak that can be reset")
    meter = Meter(CPU, memory)
    with meter.phase("text"):
        pass
    # Fresh pages, not what an allocator has kept.
    with meter.phase("decode"), mmap(-1, 200 * MIB) as big:
        for page in range(0, len(big), PAGESIZE):
            big[page] = 1
    with meter.phase("commit"):
        pass
    assert meter.peaks["decode"] >= meter.peaks["text"] + 190 * MIB
    assert meter.peaks["commit"] < meter.peaks["decode"] - 150 * MIB


def test_peaks_are_this_process_own_and_not_its_parents() -> None:
    """`ru_maxrss` survives exec: a child of a large process would report the parent's peak."""
    if not isinstance(memory_of(CPU), ResidentMemory):
        pytest.skip("this kernel keeps no peak that can be reset")
    child = (
        "import subprocess, sys; from mmap import mmap; big = mmap(-1, 1500 * 2**20)\n"
        "for page in range(0, len(big), 4096): big[page] = 1\n"
        "code = 'from harness.runs.meter import ResidentMemory as R; r = R(); r.reset(); '"
        "'print(r.peak()[0])'\n"
        "sys.exit(subprocess.run([sys.executable, '-c', code]).returncode)"
    )
    told = subprocess.run(
        [sys.executable, "-c", child], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert 0 < int(told.stdout) < 1400 * MIB


@pytest.mark.parametrize("status", ["Name:\tpython\nVmRSS:\t 5 kB\n", None])
def test_a_system_without_the_mark_says_what_is_used_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str | None
) -> None:
    if status is not None:
        (tmp_path / "status").write_text(status)
    for name in ("clear_refs", "statm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(ResidentMemory, "folder", tmp_path)
    memory = memory_of(CPU)
    assert memory.source == "process rss, end of phase"
    assert memory.peak()[0] > MIB


@dataclass
class Told:
    """A device whose peaks are given, allocated and reserved."""

    peaks: list[tuple[int, int]]
    source: str = "made up"

    def reset(self) -> None: ...

    def now(self) -> int:
        return 0

    def peak(self) -> tuple[int, int]:
        return self.peaks.pop(0)


def test_both_peaks_cover_the_same_phases() -> None:
    """The encoder is gone before the first video: neither peak may be its."""
    encoding = Meter(CPU, Told([(900, 1000)]))
    with encoding.phase("text"):
        pass
    meter = Meter(CPU, Told([(10, 20), (50, 70), (40, 90), (30, 60)]))
    meter.include(encoding)
    for name in ("text", "denoise", "commit", "decode"):
        with meter.phase(name):
            pass
    assert (largest(meter.peaks), largest(meter.peak_reserved)) == (50, 90)
    assert (meter.peaks["text"], meter.peak_reserved["text"]) == (900, 1000)


def test_what_was_measured_before_counts() -> None:
    memory = memory_of(CPU)
    before, meter = Meter(CPU, memory), Meter(CPU, memory)
    with before.phase("text"):
        time.sleep(0.01)
    meter.include(before)
    assert meter.seconds["text"] == before.seconds["text"]
    assert meter.peaks["text"] == before.peaks["text"]
