"""Times whole videos of the small model under every method, interleaved, and their parts."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from harness.benchmarks.cases import FEW, SOFT_PRUNE
from harness.benchmarks.options import Options
from harness.benchmarks.overhead import request
from harness.benchmarks.report import Report, Row
from harness.benchmarks.timing import Spread, interleave, self_timed
from harness.cache.frame_layer import FrameLayer
from harness.cache.session import Session
from harness.cache.token_layer import TokenLayer
from harness.runs.generate import Generator
from harness.runs.meter import Meter
from harness.system import machine
from harness.system.errors import UserError, first_line
from harness.system.paths import CONF

TITLE = "Videos of the small model under every method"
BASE = "bf16"
# What storing costs. None of these calls another one, so their seconds add up.
WATCHED: tuple[tuple[type, str], ...] = (
    (FrameLayer, "commit"),
    (FrameLayer, "observe_noisy"),
    (TokenLayer, "commit"),
    (Session, "ledger"),
)
ROUNDS = 5  # videos of each method
# Methods that are timed in turn, with BF16 among them: the machine's speed drifts over minutes.
GROUP = 12
# Upper bounds: of a quantizer's time, of soft prune's (it attends to fewer tokens), and of storing.
QUANTIZED, POOLED, SHARE = 1.05, 0.80, 0.03


def run(options: Options) -> int:
    """Measure denoising and commit relative to BF16, and the share of storing."""
    rounds, num_frames = (1, 6) if options.quick else (ROUNDS, 42)
    # Without the published rows below `conf/method/published`, which run in other integrations.
    every = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
    names = [name for name in (FEW if options.quick else every) if name != BASE]
    device = machine.choose_device("auto")
    with (
        Report("generation", TITLE, device, options) as report,
        tempfile.TemporaryDirectory() as folder,
    ):
        base = Videos(BASE, folder, rounds, num_frames)
        for start in range(0, len(names), GROUP):
            # The models of a group are in memory at once.
            videos = {BASE: base}
            for name in names[start : start + GROUP]:
                try:
                    videos[name] = Videos(name, folder, rounds, num_frames)
                except (UserError, ValueError) as error:
                    report.add(Row("denoising and commit / bf16's", name, note=first_line(error)))
            cases = {name: each.make for name, each in videos.items()}
            times = interleave(cases, self_timed, rounds, warm_up=0)  # `Videos` has warmed up
            for name in videos:
                if name == BASE and start > 0:
                    continue  # it has its rows from the first group
                note = f"{times.of(name).middle:.3f} s; {videos[name].generator.record.backend}"
                # Quantizers alone may cost a little time; pooling must save some.
                target = None if name == BASE else POOLED if name == SOFT_PRUNE else QUANTIZED
                ratio, more = times.ratio(name, BASE), {"seconds": times.seconds[name]}
                item = "denoising and commit / bf16's"
                report.add(Row.of(item, name, ratio, "x", target=target, note=note, more=more))
                item, share = "share of encoding, policy and ledger", videos[name].shares[-rounds:]
                note = "of the same seconds"
                report.add(Row.of(item, name, Spread.of(share), "", target=SHARE, note=note))
    return 0


class Videos:
    """The videos of one method."""

    def __init__(self, method: str, folder: str, num_videos: int, num_frames: int) -> None:
        self._run = request(method, Path(folder) / method, num_videos, num_frames)
        # Texts and warm-up come before the first measured video, as in a run.
        self.generator = Generator(self._run)
        self.generator.encode([item.prompt.text for item in self._run.items])
        self.generator.warm_up()
        self.shares: list[float] = []

    def make(self, index: int) -> float:
        """Return the seconds of denoising and commit of a video; record the share of storing."""
        meter = Meter(self.generator.device, self.generator.memory)
        with stopwatch() as spent:
            self.generator.make(self._run.items[index], meter)
        # Only these phases depend on the method.
        seconds = meter.seconds["denoise"] + meter.seconds["commit"]
        self.shares.append(sum(spent) / seconds)
        return seconds


@contextmanager
def stopwatch() -> Iterator[list[float]]:
    """Record the seconds of every commit into a layer, policy observation and ledger.

    On a GPU these are the seconds of launching.
    """
    spent: list[float] = []

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                spent.append(time.perf_counter() - start)

        return call

    with ExitStack() as patches:
        # Patch the methods from outside, so that the cache itself has no code for benchmarks.
        for owner, name in WATCHED:
            method = timed(getattr(owner, name))
            patches.enter_context(mock.patch.object(owner, name, method))
        yield spent
