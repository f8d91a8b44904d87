from __future__ import annotations

import time
from mmap import PAGESIZE, mmap

import pytest
import torch

from harness.measure import Meter, ResidentMemory, memory_of

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


def test_what_was_measured_before_counts() -> None:
    memory = memory_of(CPU)
    before, meter = Meter(CPU, memory), Meter(CPU, memory)
    with before.phase("text"):
        time.sleep(0.01)
    meter.include(before)
    assert meter.seconds["text"] == before.seconds["text"]
    assert meter.peaks["text"] == before.peaks["text"]
