"""Runs the GPU bench: nine measurements in ten minutes, on random weights of true size.

`--dry-run` runs every item on a CPU at tiny sizes, with kernels in Triton's interpreter. It finds
errors of the bench before a GPU is rented.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from harness.benchmarks import attention
from harness.benchmarks.cases import Shape
from harness.benchmarks.gpu import rates, video
from harness.benchmarks.lab import Lab, Sizes, on_cpu
from harness.benchmarks.options import Options
from harness.benchmarks.report import Report, Row, nvidia_smi
from harness.cache import kernels
from harness.cache.attention.base import Backend
from harness.cache.attention.fused import Fused
from harness.cache.attention.staged import Staged
from harness.system.errors import UserError, first_line

TITLE = "Attention over packed history beside BF16 on a GPU"
LIMIT_S = 540  # for all items; the rest of ten minutes is for starting and writing


@dataclass(frozen=True)
class Item:
    """One measurement: its number and name, its budget in seconds, and its function."""

    title: str
    budget_s: float
    measure: Callable[[Lab], None]


# The most important first: the machine is rented for minutes.
ITEMS = (
    Item("0 rates of the machine", 10, rates.machine),
    Item("1 BF16 SDPA", 30, rates.sdpa),
    Item("2 attention calls", 120, attention.calls),
    Item("3 encode and append", 10, attention.encoding),
    Item("4 videos", 170, video.videos),
    Item("5 peaks", 10, video.peaks),
    Item("6 correctness", 40, attention.correctness),
    Item("7 fused and staged attention", 50, attention.crossover),
    Item("8 8-bit products", 40, attention.products),
)
# Sizes of Wan 1.3B: 12 heads of 128 channels, 30 layers, 30 x 52 tokens per frame, 3 frames per
# chunk (4680 queries), and 1536 to 8960 channels in the feed-forward layer. The histories are those
# of the last chunk in a window of 21 frames and in a video of 42.
FULL = Sizes(
    frame=Shape(12, 128, 1560, 1),
    histories=(18, 39),
    queries=(4680,),
    encoded=Shape(12, 128, 1560, 3),
    warm_up=2,
    num_layers=30,
    few_queries=(64, 128, 256, 512, 1170, 4680),
    model=("model=self_forcing", "model.weights=random"),
    multiples=(1, 2, 4, 7, 14),
    gemm=(4680, 1536, 8960),
    copy_bytes=2**32,
    videos=3,
)
# The smallest sizes that every kernel accepts: Triton's interpreter takes seconds per call.
SMALL = Sizes(
    frame=Shape(2, 32, 32, 1),
    histories=(2, 3),
    queries=(32,),
    encoded=Shape(2, 32, 32, 1),
    rounds=1,
    few_queries=(8, 24),
    model=(
        "model=small",
        "model.weights=random",
        "model.latent_size=[8,16]",
        "model.chunk_frames=1",
        "model.schedule.steps=[1000]",
        *(f"model.dims.{n}" for n in ("dim=64", "num_layers=1", "num_heads=2", "ffn_dim=96")),
    ),
    multiples=(1, 2, 3),
    gemm=(64, 64, 64),
    copy_bytes=2**16,
)


def run(options: Options) -> int:
    """Run all items; return 1 if one of them failed, with the reason in its row.

    Raises  UserError: no GPU, and no dry run asked for.
    """
    if options.dry_run:
        if os.environ.get("TRITON_INTERPRET") != "1":
            # A new process sets Triton's interpreter before anything imports Triton.
            command = [sys.executable, "-m", "harness", "bench", "gpu", *options.words]
            return subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}).returncode
        device = torch.device("cpu")
    elif torch.cuda.is_available():
        device = torch.device("cuda")
    else:
        raise UserError(
            "bench gpu: there is no CUDA device here; type python -m harness bench gpu --dry-run "
            "to run it at tiny sizes on the CPU"
        )
    sizes = SMALL if options.dry_run or options.quick else FULL
    # A dry run without Triton still shows that every item works.
    backends: dict[str, Backend] = {"staged": Staged(), "fused": Fused()}
    if kernels.missing(device):
        backends = on_cpu()
    failed = False
    title = f"{TITLE} (dry run: nothing here is a measurement)" if options.dry_run else TITLE
    with Report("gpu", title, device, options) as report, torch.inference_mode():
        lab = Lab(device, sizes, report, backends)
        end = math.inf if options.dry_run else time.perf_counter() + LIMIT_S
        with lab.until_end:
            for item in ITEMS:
                failed |= not _measure(item, lab, end)
    return int(failed)


def _measure(item: Item, lab: Lab, end: float) -> bool:
    """Run one item within its budget; an error becomes a row, and returns False.

    end: when the bench must end; inf in a dry run, which has no budgets.
    """
    start = time.perf_counter()
    lab.begin(item.title, end if math.isinf(end) else min(start + item.budget_s, end))
    try:
        item.measure(lab)
    except Exception as error:  # noqa: BLE001  a machine is rented for minutes: take what works
        lab.report.add(Row(item.title, "all", note=f"failed: {first_line(error)}"))
        return False
    finally:
        # Clocks and temperature show whether the GPU was throttled during this item.
        lab.report.head.setdefault("items", {})[item.title] = {
            "seconds": round(time.perf_counter() - start, 2),
            "budget_s": item.budget_s,
            "clocks_power_temperature": nvidia_smi(
                "clocks.sm,clocks.mem,power.draw,temperature.gpu"
            ),
        }
        if lab.device.type == "cuda":
            torch.cuda.empty_cache()  # the next item must find the memory of this one
    return True
