"""The parts of a peak against an allocator: every tensor that lives, counted as it is made."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from harness.planning.live_bytes import LiveBytes
from harness.results.observation import PHASES
from harness.runs.generate import Generator
from harness.runs.meter import Meter
from tests.support.runs import run

SMALL = ("model.latent_size=[8,8]",)


class Allocator:
    """The memory that a `Meter` reads, from tensors themselves."""

    source = "live tensors"

    def __init__(self, live: LiveBytes) -> None:
        self._live = live

    def reset(self) -> None:
        self._live.restart()

    def now(self) -> int:
        return self._live.now

    def peak(self) -> tuple[int, int]:
        return self._live.peak, self._live.peak


QUICK = {
    *(("bf16", "packed"), ("rtn_int4", "published"), ("quarot_int4", "packed")),
    *(("softprune_int4", "packed"), ("softprune_int4", "published")),
}


@pytest.mark.parametrize(
    ("method", "integration"),
    [
        pair if pair in QUICK else pytest.param(*pair, marks=pytest.mark.slow)
        for pair in product(
            ("bf16", "rtn_int4", "softprune_int4", "quarot_int4"), ("packed", "published")
        )
    ],
)
def test_the_parts_of_each_peak_are_known_to_3_percent(
    method: str, integration: str, tmp_path: Path
) -> None:
    this = run(tmp_path, *SMALL, f"method={method}", f"integration={integration}")
    with LiveBytes() as live:
        generator = Generator(this)
        generator.memory = Allocator(live)
        generator.encode([item.prompt.text for item in this.items])
        meter = Meter(generator.device, generator.memory)
        generator.make(this.items[0], meter)
    assert set(meter.ledgers) == set(PHASES)
    for phase, parts in meter.ledgers.items():
        assert sum(parts.values()) == meter.peaks[phase]
        assert abs(parts["other"]) <= 0.03 * meter.peaks[phase], (phase, parts)
        assert parts["activations"] >= 0
    assert meter.ledgers["commit"]["weights"] > 0
    after = meter.ledgers["decode"]
    freed = {"cross_attention", "codes", "scale", "exact"} & set(after)
    assert bool(freed) == (integration == "published")  # history alive during the decode, or gone
