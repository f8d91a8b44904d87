"""Measures what the harness adds to generation: timers, peaks, trace, rows and files.

It uses two measures. Inside: the share of a video's time in the first stage that is neither text
encoding, denoising, commit nor decoding. Side by side: the same videos by the bare sampler and
decoder, and by the first stage, interleaved in one process. Noise of a shared machine affects the
second measure, so its quartiles are printed too.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from harness.benchmarks import made_up
from harness.benchmarks.options import Options
from harness.benchmarks.report import Report, Row
from harness.benchmarks.timing import Spread, Wall, interleave
from harness.config.compose import configured
from harness.prompts.suite import Prompt, Suite
from harness.results.observations import OBSERVATIONS, Rows
from harness.results.run import Run
from harness.runs.generate import Generator, make_one
from harness.runs.meter import Meter
from harness.sampling.decoding import LatentBuffer
from harness.sampling.noise import SeededNoise
from harness.sampling.passes import NullObserver
from harness.system import machine

TITLE = "What the harness adds around generation"
METHODS = ("bf16", "softprune_int4")
SHARE = 0.03  # upper bound


def run(options: Options) -> int:
    """Measure the overhead of each method in both ways."""
    # 42 latent frames are a video of ten seconds.
    rounds, num_frames = (1, 6) if options.quick else (10, 42)
    device = machine.choose_device("auto")
    with Report("overhead", TITLE, device, options) as report:
        for method in METHODS:
            with tempfile.TemporaryDirectory() as folder:
                bench = Bench(request(method, folder, rounds, num_frames))
                cases = {"bare": bench.bare, "whole": bench.whole}
                times = interleave(cases, Wall(device), rounds)
            # The first share is that of the warm-up.
            share = Spread.of(bench.shares[1:])
            note = f"of {times.of('whole').middle:.2f} s a video"
            report.add(Row.of("share of the harness", method, share, "", target=SHARE, note=note))
            # Without a target: the noise of a shared machine is in it.
            ratio = times.ratio("whole", "bare")
            report.add(Row.of("video with and without the harness", method, ratio, "x"))
    return 0


class Bench:
    """Generates the same videos with and without the harness around them."""

    def __init__(self, run: Run) -> None:
        self.generator = Generator(run)
        self.generator.encode([item.prompt.text for item in run.items])
        self.generator.warm_up()
        self.rows = Rows(run.folder / OBSERVATIONS)
        self.items = run.items
        self.shares: list[float] = []

    def bare(self, index: int) -> None:
        """Generate a video without measuring or storing anything."""
        # The same sampler, session and decoder as in `generate`, so that nothing but the harness
        # differs.
        item, generator = self.items[index], self.generator
        model, num_frames = generator.model, generator.run.suite.num_frames
        noise = SeededNoise(item.seed, model.latent_shape(num_frames))
        session = generator.session(num_frames)
        text_kv = model.text_kv(generator.sampler, generator.text_rows(item)[0])
        buffer = LatentBuffer(model.decoder, NullObserver())
        chunks = generator.sampler.sample(
            session, text_kv, noise, num_frames, NullObserver(), buffer
        )
        for latents in chunks:
            buffer.latents.append(latents)
        buffer.end(generator.decode)

    def whole(self, index: int) -> None:
        """Generate a video as the first stage does; record the share of time of the harness."""
        meter = Meter(self.generator.device, self.generator.memory)
        make_one(self.generator, self.items[index], meter, self.rows)
        wall_s = time.perf_counter() - meter.start
        # The prompt was encoded before this video began; its seconds are not part of `wall_s`.
        _, encoding = self.generator.texts[self.items[index].prompt.text]
        work_s = sum(meter.seconds.values()) - sum(encoding.seconds.values())
        self.shares.append(1 - work_s / wall_s)


def request(method: str, folder: str | Path, num_videos: int, num_frames: int) -> Run:
    """Return a run of the small model in its own folder."""
    prompts = tuple(Prompt(i, f"a red ball bounces {i} times") for i in range(num_videos))
    suite = Suite("bench", prompts, source="custom", sha256="", num_frames=num_frames)
    run = made_up.request(folder, method, configured(f"method={method}"), suite)
    run.make_folders()
    return run
