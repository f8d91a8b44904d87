"""What the harness adds around generation: timers, peaks, trace, rows and files of the first stage.

Two ways to see it. Inside: of a video as the first stage makes it, the share that is neither text
encoding, denoising, commit nor decoding. Side by side: the same videos by the bare sampler and
decoder (A) and by the first stage (B), one process, A B B A after a warm-up of each; on a shared
machine this one carries the machine's noise, so its quartiles are printed too.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from harness.cache import Session
from harness.cli import CONF
from harness.generate import Generator, Silent, make_one
from harness.measure import Meter
from harness.run import Run
from harness.sampler import SeededNoise
from harness.store import OBSERVATIONS, Observation, Rows
from harness.suites import Prompt, Suite

ROUNDS = 10
METHODS = ("bf16", "softprune_int4")
Action = Callable[[int], None]


def overhead() -> None:
    """Print, for each method, what the harness adds, seen in both ways."""
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(_run(method, folder))
            bare_s, whole_s = _alternate(bench.bare, bench.whole)
        inside = statistics.median(bench.shares[1:])
        added = [100 * (whole / bare - 1) for bare, whole in zip(bare_s, whole_s, strict=True)]
        low, middle, high = statistics.quantiles(added, n=4)
        print(
            f"{method}: the harness is {inside:.1%} of {statistics.median(whole_s):.2f} s a video "
            f"(at most 3% wanted); side by side with the bare sampler's "
            f"{statistics.median(bare_s):.2f} s: {middle:+.1f}%, quartiles {low:+.1f}% to "
            f"{high:+.1f}%; medians of {ROUNDS} videos"
        )


class Bench:
    """Makes the same videos with and without the harness around them."""

    def __init__(self, run: Run) -> None:
        """Build the model once for both."""
        self.generator = Generator(run)
        self.generator.encode([item.prompt.text for item in run.items])
        self.generator.warm_up()
        self.rows = Rows(run.folder / OBSERVATIONS, Observation)
        self.items = run.items
        self.shares: list[float] = []

    def bare(self, index: int) -> None:
        """A video with nothing measured and nothing kept."""
        item, generator = self.items[index], self.generator
        model, num_frames = generator.model, generator.run.suite.num_frames
        noise = SeededNoise(item.seed, model.latent_shape(num_frames))
        session = Session(model.spec, generator.method, generator.device)
        text_kv = model.text_kv(generator.sampler, generator.text_rows(item))
        chunks = generator.sampler.sample(session, text_kv, noise, num_frames, Silent())
        generator.decode(torch.cat(list(chunks), dim=1))

    def whole(self, index: int) -> None:
        """A video as the first stage makes it; notes the share of it that is the harness."""
        meter = Meter(self.generator.device, self.generator.memory)
        make_one(self.generator, self.items[index], meter, self.rows)
        wall_s = time.perf_counter() - meter.start
        _, encoding = self.generator.texts[self.items[index].prompt.text]
        work_s = sum(meter.seconds.values()) - sum(encoding.seconds.values())
        self.shares.append(1 - work_s / wall_s)


def _alternate(a: Action, b: Action) -> tuple[list[float], list[float]]:
    """Seconds of a and b after one of each unmeasured, so that drift of the machine cancels."""
    for action in (a, b):
        action(0)
    seconds: tuple[list[float], list[float]] = ([], [])
    for index in range(ROUNDS):
        order = ((0, a), (1, b)) if index % 2 == 0 else ((1, b), (0, a))
        for side, action in order:
            start = time.perf_counter()
            action(index)
            seconds[side].append(time.perf_counter() - start)
    return seconds


def _run(method: str, folder: str) -> Run:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"method={method}"])
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    prompts = tuple(Prompt(i, f"a red ball bounces {i} times") for i in range(ROUNDS))
    run = Run(
        results_dir=folder,
        model_name="tiny",
        method_name=method,
        model=resolved["model"],
        method=resolved["method"],
        suite=Suite("bench", prompts, source="custom", sha256="", num_frames=42),
        seed=0,
        samples=1,
        data_dir=folder,
        device="auto",
        track={"mode": "disabled"},
    )
    run.make_folders()
    return run
