"""Measures stored bits and error of every method's quantizers on realistic keys and values.

Each tier of each method is encoded and decoded once, as a packed cache does to a token, and many
times, as re-encoding the whole cache at every pass does.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.api import CacheSpec, Exact, Method, Quantizer, Tier
from harness.api.method import tiers_of
from harness.benchmarks.cases import FEW, method_of
from harness.benchmarks.checks import relative
from harness.benchmarks.options import Options
from harness.benchmarks.realistic import realistic_keys, realistic_values
from harness.benchmarks.report import Report, Row
from harness.config.compose import method_files

TITLE = "Relative error of keys and values at their stored bits, on synthetic realistic tokens"
# Passes of a video: 14 chunks of 4 denoising passes and one commit. A cache that is encoded again
# in every pass rounds its oldest tokens so often.
ROUNDS = 70
# Frames of Wan's size (30 x 52 patches), and smaller ones with as many channels.
TRUE = CacheSpec(num_layers=1, num_heads=2, head_dim=128, grid=(30, 52), chunk_frames=3)
SMALL = CacheSpec(num_layers=1, num_heads=1, head_dim=128, grid=(8, 12), chunk_frames=3)


def run(options: Options) -> int:
    """Add one row per tier, for keys and for values, sorted by family.

    Equal tiers within a family are measured once. Quick mode measures a few methods, one unpaged.
    """
    seen: list[tuple[str, Quantizer, Quantizer, str]] = []
    shape, rounds = (SMALL, 2) if options.quick else (TRUE, ROUNDS)
    names = (*FEW, "published/qaq_int4") if options.quick else method_files()
    # Methods store keys with or without their rotary position, which are not equally hard to store.
    keys = {k: realistic_keys(shape, 3, k == "roped").bfloat16() for k in ("roped", "pre_rope")}
    values = realistic_values(shape, 3).bfloat16()
    with Report("formats", TITLE, torch.device("cpu"), options) as report:
        methods = {name: method_of(name) for name in names}
        for name, method in sorted(methods.items(), key=lambda pair: (pair[1].family, pair[0])):
            for case, tier in stored(name, method):
                # A list, since quantizers need not be hashable. Many methods share a quantizer.
                if (method.family, tier.key, tier.value, method.keys) in seen:
                    continue
                seen.append((method.family, tier.key, tier.value, method.keys))
                sides = {
                    "keys": (tier.key, keys[method.keys_in(shape)]),
                    "values": (tier.value, values),
                }
                for side, (quantizer, x) in sides.items():
                    report.add(row(side, case, method.family, quantizer, x, rounds))
    return 0


def stored(name: str, method: Method) -> Iterator[tuple[str, Tier]]:
    """Yield the tiers that quantize keys or values."""
    for tier_name, tier in tiers_of(method).items():
        if not (isinstance(tier.key, Exact) and isinstance(tier.value, Exact)):
            yield (name if len(tiers_of(method)) == 1 else f"{name}, {tier_name}"), tier


def row(side: str, case: str, family: str, quantizer: Quantizer, x: Tensor, rounds: int) -> Row:
    """Measure the error after one round and after many."""
    # A quantizer whose round trip is not idempotent drifts further from x in every round.
    once = again = trip(quantizer, x)
    for _ in range(rounds - 1):
        again = trip(quantizer, again)
    # From the stored tensors, so metadata counts.
    bits = 8 * quantizer.encode(pages(quantizer, x)).nbytes / x.numel()
    late = relative(again, x)
    return Row(
        f"{family}, {side}",
        case,
        relative(once, x),
        note=f"{bits:.3f} bits; {late:.4f} after {rounds} rounds",
        more={"bits": bits, "error_after_rounds": late, "rounds": rounds},
    )


def trip(quantizer: Quantizer, x_BHFTD: Tensor) -> Tensor:
    """Encode and decode tensors [B, H, F, T, D]."""
    x = pages(quantizer, x_BHFTD)
    return quantizer.decode(quantizer.encode(x), x.dtype).reshape(x_BHFTD.shape)


def pages(quantizer: Quantizer, x_BHFTD: Tensor) -> Tensor:
    """Arrange tensors as the integration does: an unpaged quantizer gets all tokens as one page."""
    return x_BHFTD if quantizer.paged else x_BHFTD.flatten(2, 3)[:, :, None]
