"""Seconds of a video's passes from arithmetic and traffic over the ceilings of a card."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.api import POOL, CacheSpec, Reuse
from harness.attention.base import Backend
from harness.attention.fused import Fused
from harness.errors import UserError
from harness.models.model import DTYPES, VideoModel
from harness.plan.history import Moment
from harness.plan.storage import Storage
from harness.plan.workload import Network

CARDS = Path(__file__).parent / "cards.yaml"
RATES = ("gemm_flops_per_s", "attention_flops_per_s", "copy_bytes_per_s")
KEYS = (*RATES, "device", "date")


@dataclass(frozen=True)
class Ceilings:
    """What a device reaches; memory_gib is None where it is not known."""

    name: str
    source: str
    gemm_flops_per_s: float
    attention_flops_per_s: float
    copy_bytes_per_s: float
    memory_gib: float | None = None


@dataclass(frozen=True)
class Work:
    """What all passes of a video do: arithmetic in FLOPs, traffic in bytes.

    staging_bytes: history read packed and written decoded by every pass (a fused kernel writes
    nothing). encoding_bytes: new keys and values, and those that move between tiers, read
    and written packed, once a chunk.
    """

    gemm_flops: float
    attention_flops: float
    staging_bytes: float
    encoding_bytes: float

    def seconds(self, ceilings: Ceilings) -> float:
        """Lower bound of the passes together; norms, rotations and launches are not in it."""
        traffic = self.staging_bytes + self.encoding_bytes
        return (
            self.gemm_flops / ceilings.gemm_flops_per_s
            + self.attention_flops / ceilings.attention_flops_per_s
            + traffic / ceilings.copy_bytes_per_s
        )


def work(
    model: VideoModel, network: Network, storage: Storage, moments: list[Moment], backend: Backend
) -> Work:
    """Add up the passes of a video.

    Source  4 q N C FLOPs of attention a layer and pass: two products of 2 q N C each, for q queries
            over N tokens of width C.
    """
    spec, itemsize = model.spec, DTYPES[model.dtype].itemsize
    width = spec.num_heads * spec.head_dim
    gemm = attention = staging = encoding = 0.0
    for moment in moments:
        passes = 1 + _denoising(model, moment.frames.start == 0, storage.method.reuse)
        queries = len(moment.frames) * spec.tokens_per_frame
        history = packed = stored = 0.0
        for name, count in moment.tiers.items():
            history += count.seen * (1 if name == POOL else spec.tokens_per_frame)
            packed += count.seen * storage.total(name, moment.parts[name])
            stored += count.stored * storage.total(name, moment.parts[name])
        staged = not isinstance(backend, Fused)
        decoded = 2 * history * width * itemsize * spec.num_layers * staged
        gemm += passes * network.flops * len(moment.frames) / spec.chunk_frames
        attention += passes * 4 * queries * (history + queries) * width * spec.num_layers
        staging += passes * (packed + decoded)
        read = len(moment.frames) + moment.moved
        encoding += read * spec.num_layers * _frame_values(spec) * itemsize + stored
    return Work(gemm, attention, staging, encoding)


def _denoising(model: VideoModel, first_chunk: bool, reuse: Reuse | None) -> int:
    """Denoising passes of a chunk that are run.

    Nothing is known of drifts before a run: a policy that goes by them is taken to skip nothing.
    """
    num_steps = len(model.schedule.times(first_chunk))
    if reuse is None:
        return num_steps
    run, drifts = 1, 0
    for step in range(1, num_steps):
        drifts += 1
        if not reuse.skips(step, num_steps, [math.inf] * drifts):
            run, drifts = run + 1, 0
    return run


def _frame_values(spec: CacheSpec) -> int:
    """Values of one frame's keys and values in one layer."""
    return 2 * spec.tokens_per_frame * spec.num_heads * spec.head_dim


def cards() -> dict[str, Ceilings]:
    """The table that comes with the program, by short name."""
    return {
        name: Ceilings(**{key: _number(value) for key, value in entry.items()})
        for name, entry in yaml.safe_load(CARDS.read_text()).items()
    }


def card(name: str) -> Ceilings:
    """One of them.

    Raises  UserError: it is not in the table.
    """
    known = cards()
    if name not in known:
        raise UserError(
            f"unknown card {name}: choose {', '.join(known)}, or type calibration=<file>"
        )
    return known[name]


def calibration(path: Path) -> Ceilings:
    """What was measured on a device: JSON with KEYS.

    Raises  UserError: no such file, no JSON, a key missing or no positive number.
    """
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read calibration={path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"calibration={path} is no JSON ({error}): make it again") from error
    missing = [key for key in KEYS if not isinstance(found, dict) or key not in found]
    if missing:
        raise UserError(f"calibration={path} lacks {', '.join(missing)}: make it again")
    for key in RATES:
        value = found[key]
        positive = isinstance(value, (int, float)) and math.isfinite(value) and value > 0
        if isinstance(value, bool) or not positive:
            raise UserError(f"calibration={path} has {key}={value}: give a positive number")
    rates = {key: float(found[key]) for key in RATES}
    return Ceilings(name=str(found["device"]), source=f"measured {found['date']}", **rates)


def _number(value: Any) -> Any:
    """YAML reads 85e12 as a word."""
    try:
        return float(value)
    except ValueError:
        return value
