"""KIVI's residual window: the newest frames stay exact, older ones are quantized in groups."""

from __future__ import annotations

import pytest
import torch

from harness.api import Exact
from harness.cache.frame_layer import FrameLayer
from methods.quantizers.affine import Affine
from tests.support.geometry import generate, method_names, method_of, network

WINDOWED = [
    name
    for name in method_names()
    if name.startswith("kivi_") and "nowindow" not in name and "normed" not in name
]


def test_every_width_and_group_has_the_window() -> None:
    names = "kivi_int4 kivi_int2 kivi_g32_int4 kivi_g32_int2 kivi_g64_int4 kivi_g64_int2"
    assert {*names.split(), "kivi_unroped_int4", "kivi_unroped_int2"} == set(WINDOWED)


@pytest.mark.parametrize("name", WINDOWED)
def test_the_newest_chunk_is_exact_and_what_leaves_it_is_not(name: str) -> None:
    """So the second chunk sees what BF16 sees, and the third is the first to differ."""
    net = network()
    exact, _ = generate(method_of("bf16"), net=net, num_frames=9)
    found, session = generate(method_of(name), net=net, num_frames=9)
    if "pre_rope" not in name:  # BF16 stores roped keys here, which rounds otherwise
        assert torch.equal(found[:, :6], exact[:, :6])
    assert not torch.equal(found[:, 6:], exact[:, 6:])
    for layer in session._layers:
        assert isinstance(layer, FrameLayer)
        assert sorted(layer.arenas["exact"].places) == [6, 7, 8]
        assert sorted(layer.arenas["keep"].places) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["kivi_nowindow_int4", "kivi_nowindow_int2"])
def test_without_the_window_the_second_chunk_differs(name: str) -> None:
    net = network()
    exact, _ = generate(method_of("bf16"), net=net, num_frames=6)
    found, _ = generate(method_of(name), net=net, num_frames=6)
    assert torch.equal(found[:, :3], exact[:, :3])
    assert not torch.equal(found[:, 3:], exact[:, 3:])


@pytest.mark.parametrize("recent", [1, 2, 5])
def test_the_window_is_as_long_as_asked(recent: int) -> None:
    method = method_of("kivi_int4", f"method.retention.recent={recent}")
    _, session = generate(method, num_frames=9)
    layer = session._layers[0]
    assert isinstance(layer, FrameLayer)
    assert sorted(layer.arenas["exact"].places) == list(range(9 - recent, 9))


@pytest.mark.parametrize(
    ("name", "bits", "group"),
    [("kivi_int4", 4, 16), ("kivi_g32_int2", 2, 32), ("kivi_g64_int4", 4, 64)],
)
def test_keys_share_scales_along_tokens_and_values_along_channels(
    name: str, bits: int, group: int
) -> None:
    method = method_of(name, "model=self_forcing")
    assert isinstance(method.key, Affine) and isinstance(method.value, Affine)
    assert (method.key.axis, method.key.bits, method.key.group) == ("tokens", bits, group)
    assert (method.value.axis, method.value.bits) == ("channels", bits)
    assert method.value.group == max(32, group)
    assert method.tiers["exact"].key == Exact() == method.tiers["exact"].value


@pytest.mark.parametrize("num_tokens", [32, 96, 97])
def test_a_group_longer_than_a_frame_is_the_frame(num_tokens: int) -> None:
    x = torch.randn(1, 1, 1, num_tokens, 32, generator=torch.Generator().manual_seed(0))
    wide = Affine(4, 128, "tokens", short_tail=True)
    packed = wide.encode(x)
    assert packed.parts["scale"].shape == (1, 1, 1, 1, 32)
    own = Affine(4, num_tokens, "tokens").encode(x)
    assert torch.equal(packed.parts["codes"], own.parts["codes"])
    assert torch.equal(wide.decode(packed, x.dtype), Affine(4, num_tokens).decode(own, x.dtype))
