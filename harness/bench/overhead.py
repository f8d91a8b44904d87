"""What the harness adds around generation: timers, peaks, trace, rows and files of the first stage.

Both sides make the same videos with the same objects in one process, in the order A B B A, after
one warm-up: A the bare sampler and decoder, B everything that `generate` does for a video.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from harness.cache import Session
from harness.cli import CONF
from harness.generate import Generator, Silent, make_one
from harness.measure import Meter
from harness.run import Item, Run
from harness.sampler import SeededNoise
from harness.suites import Prompt, Suite

ROUNDS = 6
METHODS = ("bf16", "softprune_int4")


def overhead() -> None:
    """Print, for each method, seconds per video with and without the harness and the ratio."""
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            generator = Generator(_run(method, folder))
            generator.encode([_item(i).prompt.text for i in range(ROUNDS)])
            generator.warm_up()
            bare, whole = _alternate(
                lambda i, g=generator: _bare(g, _item(i)),  # type: ignore[misc]
                lambda i, g=generator: make_one(g, _item(i), _meter(g)),  # type: ignore[misc]
            )
        added = [(w / b - 1) * 100 for b, w in zip(bare, whole, strict=True)]
        print(
            f"{method}: bare {statistics.median(bare):.3f} s, with harness "
            f"{statistics.median(whole):.3f} s a video (medians of {len(bare)}); harness adds "
            f"{statistics.median(added):+.1f} % (at most 3 wanted)"
        )


def _alternate(
    a: Callable[[int], object], b: Callable[[int], object]
) -> tuple[list[float], list[float]]:
    """Seconds of a and b, interleaved A B B A, so that drift of the machine cancels."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for index in range(ROUNDS):
        order = ((0, a), (1, b)) if index % 2 == 0 else ((1, b), (0, a))
        for side, action in order:
            start = time.perf_counter()
            action(index)
            seconds[side].append(time.perf_counter() - start)
    return seconds


def _bare(generator: Generator, item: Item) -> None:
    """The same video with nothing measured and nothing kept."""
    model, sampler = generator.model, generator.sampler
    num_frames = generator.run.suite.num_frames
    noise = SeededNoise(item.seed, model.latent_shape(num_frames))
    session = Session(model.spec, generator.method, generator.device)
    text_kv = model.text_kv(sampler, generator.text_rows(item))
    chunks = sampler.sample(session, text_kv, noise, num_frames, Silent())
    generator.decode(torch.cat(list(chunks), dim=1))


def _meter(generator: Generator) -> Meter:
    return Meter(generator.device, generator.memory)


def _item(index: int) -> Item:
    return Item(Prompt(index, f"a red ball bounces {index} times"), 0, index)


def _run(method: str, folder: str) -> Run:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"method={method}"])
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    run = Run(
        results_dir=folder,
        model_name="tiny",
        method_name=method,
        model=resolved["model"],
        method=resolved["method"],
        suite=Suite("bench", tuple(_item(i).prompt for i in range(ROUNDS)), "custom", "", 42),
        seed=0,
        samples=1,
        data_dir=str(Path(folder)),
        device="auto",
        track={"mode": "disabled"},
    )
    run.prepare()
    return run
