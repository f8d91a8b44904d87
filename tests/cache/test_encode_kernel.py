"""The encoding kernel against the quantizers' own `encode` on a CPU, bit for bit.

Interpreted, or on a GPU if there is one. The interpreter takes a tenth of a second a program whose
tokens share metadata, so shapes are tiny.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harness.api import CodePlane, Exact, KernelLayout
from methods.quantizers.affine import Affine
from methods.quantizers.grouped import Grouped
from methods.quantizers.prq import PRQ
from methods.quantizers.rtn import RTN
from tests.conftest import ROOT
from tests.support.kernels import tiered

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SLOTS, UNTOUCHED = 5, 7


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def check_encode(quantizer: Grouped, x: Tensor) -> None:
    """Encode two frames into slots 3 and 0 of 5 and hold all slots against the oracle."""
    from harness.cache.kernels.encode import encode

    expected = quantizer.encode(x)
    slab = {
        name: part.new_full((*part.shape[:2], SLOTS, *part.shape[3:]), UNTOUCHED)
        for name, part in expected.parts.items()
    }
    pages = replace(expected, parts={name: part.clone().to(DEVICE) for name, part in slab.items()})
    slots = torch.tensor([3, 0], dtype=torch.int32, device=DEVICE)
    on_device = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=DEVICE).copy_(x)
    encode(quantizer.kernel_layout(), on_device, pages, slots)
    for name, part in slab.items():
        part[:, :, [3, 0]] = expected.parts[name]
        assert torch.equal(pages.parts[name].cpu(), part), name


@pytest.mark.parametrize("axis", ["tokens", "channels"])
@pytest.mark.parametrize("bits", tiered([2, 4, 8], 4))
@pytest.mark.parametrize("kind", tiered([RTN, Affine], Affine))
def test_every_width_axis_and_fit(kind: type[Grouped], bits: int, axis: str) -> None:
    """Strided bf16, batch 2, a short tail, and groups that are hard to scale."""
    x = (normal(2, 2, 24, 2, 16) + 3).bfloat16()  # [B, F, T, H, D]
    x[0, 0, :, 0] = 0
    x[0, 0, :, 1] = 0.3
    x[0, 1, :, 0] *= 1e6
    x[0, 1, :, 1] *= 1e-7
    x[1, 0, 5, 0] = -1e6
    check_encode(kind(bits, 16, axis, short_tail=True), x.permute(0, 3, 1, 2, 4))


@pytest.mark.parametrize(
    ("quantizer", "dtype"),
    [
        (Affine(2, 5, "tokens", short_tail=True), torch.float16),
        (RTN(4, 20, "tokens", short_tail=True), torch.float32),  # more tokens than a thread holds
        (RTN(2, 32, "channels"), torch.float16),  # metadata shared by all four fields of a byte
        (Affine(2, 16, "channels"), torch.float32),  # by two
        (Affine(4, 4, "channels"), torch.float32),  # by a quarter of one
    ],
    ids=str,
)
def test_groups_and_dtypes(quantizer: Grouped, dtype: torch.dtype) -> None:
    check_encode(quantizer, normal(1, 1, 2, 23, 32).to(dtype))


@pytest.mark.parametrize("bits", tiered([2, 4, 8], 2))
@pytest.mark.parametrize("kind", [RTN, Affine])
def test_codes_next_to_ties(kind: type[Grouped], bits: int) -> None:
    """Values in the middle of two codes, which fp32 holds exactly, and the floats beside them."""
    top, bottom = float(2**bits - 1), 0.0
    if kind is RTN:
        top, bottom = top / 2, -top / 2
    scale = normal(1, 1, 2, 200, 1).abs().half().float()
    codes = torch.randint(0, 2**bits - 1, (1, 1, 2, 200, 128)) + 0.5
    middle = (codes + bottom) * scale
    x = torch.where(normal(*codes.shape) < 0, middle, middle.nextafter(normal(*codes.shape)))
    x[..., :1], x[..., 1:2] = bottom * scale, top * scale
    check_encode(kind(bits, 128, "channels"), x)


def test_forms_that_cannot_be_encoded() -> None:
    from harness.cache.kernels.encode import can_encode

    assert can_encode(RTN().kernel_layout()) and can_encode(Affine(axis="channels").kernel_layout())
    assert not can_encode(None)
    assert not can_encode(Exact().kernel_layout())
    assert not can_encode(KernelLayout((CodePlane(4, 16, "tokens", -7.5),)))
    assert not can_encode(RTN(group=1560).kernel_layout())
    assert not can_encode(replace(RTN().kernel_layout(), channel_mean="channel_mean"))
    assert not can_encode(PRQ(RTN(), RTN()).kernel_layout())


@pytest.mark.slow
def test_compiles_ahead_for_gpus() -> None:
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    kernels = ("encode/int4_tokens", "encode/int2_token")
    run = subprocess.run(
        [sys.executable, "-m", "harness.cache.kernels.ahead", "--only", *kernels],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(rows) == 3 * 2
    for row in rows:
        assert row["stack"] == 0 and row["registers"] <= 160, row
