"""Layers with and without fast 16-bit products: rounding, autocast, GPUs, compilation."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from harness.models.linear import Conv3d, Linear
from harness.models.magi import MagiDims
from harness.models.wan import WanDims
from harness.system import machine

INPUTS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (Linear(96, 40), (2, 7, 96)),
    "linear without bias": (Linear(96, 40, bias=False), (7, 96)),
    "convolution": (Conv3d(16, 40, (1, 2, 2), (1, 2, 2)), (2, 16, 3, 4, 6)),
    "convolution without bias": (Conv3d(16, 40, (1, 2, 2), bias=False), (1, 16, 3, 4, 6)),
}


def emulate(monkeypatch: pytest.MonkeyPatch, *dtypes: torch.dtype) -> None:
    monkeypatch.setattr(machine, "EMULATED", frozenset(dtypes))


def drawn(name: str, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """A layer and its input with values of the dtype; the layer's own are as initialized."""
    layer, size = INPUTS[name]
    x = torch.randn(size, generator=torch.Generator().manual_seed(1))
    return copy.deepcopy(layer).to(dtype).requires_grad_(False), x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", INPUTS)
def test_emulated_products_are_exact_sums_rounded_once(name, dtype, monkeypatch):
    emulate(monkeypatch, dtype)
    layer, x = drawn(name, dtype)
    exact = copy.deepcopy(layer).double()(x.double())
    out = layer(x)
    assert out.dtype == dtype
    # A sum in fp32 that lies next to the middle of two numbers may round to the other one.
    step = torch.finfo(dtype).eps * exact.abs().clamp_min(1e-2)
    assert ((out.double() - exact).abs() <= 0.51 * step + 1e-6).all()
    assert (out == exact.to(dtype)).double().mean() > 0.98


@pytest.mark.parametrize("name", INPUTS)
def test_elsewhere_the_layers_are_those_of_pytorch(name, monkeypatch):
    for emulated, dtype in [((), torch.bfloat16), ((torch.bfloat16,), torch.float32)]:
        emulate(monkeypatch, *emulated)
        layer, x = drawn(name, dtype)
        plain = nn.Linear if isinstance(layer, Linear) else nn.Conv3d
        assert torch.equal(layer(x), plain.forward(layer, x))


def test_autocast_decides_the_dtype_of_a_product(monkeypatch):
    emulate(monkeypatch, torch.bfloat16)
    layer, x = drawn("linear", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x.bfloat16())
        assert torch.equal(out, nn.Linear.forward(layer, x.bfloat16()))
    assert out.dtype == torch.bfloat16


def test_a_gpu_never_computes_in_fp32_instead(monkeypatch):
    emulate(monkeypatch, torch.bfloat16)
    assert machine.is_emulated(torch.empty(1, dtype=torch.bfloat16))
    assert not machine.is_emulated(torch.empty(1, dtype=torch.bfloat16, device="meta"))


@pytest.mark.parametrize(
    "dims", [WanDims(place_waves=2, fps_rows=2), MagiDims()], ids=["wan", "magi"]
)
def test_every_layer_with_a_product_is_one_of_these(dims):
    with torch.device("meta"):
        network = dims.network(fps=24)
    kinds = {type(module) for module in network.modules()}
    assert {Linear, Conv3d} <= kinds
    assert not kinds & {nn.Linear, nn.Conv3d}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_layer_is_compiled_in_one_piece(dtype, monkeypatch):
    """A call that the compiler cannot trace would split every block of a training."""
    emulate(monkeypatch, torch.bfloat16)
    layer, x = drawn("linear", dtype)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), layer(x))
