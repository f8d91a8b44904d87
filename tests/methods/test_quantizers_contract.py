"""What every quantizer of every method file must do; none of them is listed here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.api import Exact, Quantizer
from methods.quantizers.nested import joined
from methods.quantizers.normed import Normed
from methods.quantizers.prq import PRQ
from methods.quantizers.quarot import QuaRot
from methods.quantizers.rtn import RTN
from tests.support.errors import TRUE, bits
from tests.support.geometry import CONF, method_names, method_of, read_method, spec

WIDTH = 32


def quantizers() -> Iterator[tuple[str, Quantizer]]:
    """Of keys and values, each once, as a model of 1560 tokens would have them."""
    seen: list[Quantizer] = []
    for name in method_names():
        method = read_method(name)
        for side, quantizer in (("key", method.key), ("value", method.value)):
            if quantizer not in seen:
                seen.append(quantizer)
                yield f"{name}.{side}", quantizer


EVERY = dict(quantizers())
each = pytest.mark.parametrize("quantizer", EVERY.values(), ids=EVERY)


def frames(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))
    return (x * torch.linspace(0.5, 3, WIDTH) + 1).to(dtype)


def test_there_are_many() -> None:
    assert len(EVERY) > 25


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_input_gives_the_same_bytes(quantizer: Quantizer, dtype: torch.dtype) -> None:
    """Without a draw from the global generator, and leaving the input as it was."""
    x = frames(2, 2, 3, 32, dtype=dtype)
    before, state = x.clone(), torch.random.get_rng_state()
    first = quantizer.encode(x)
    torch.manual_seed(5)
    second = quantizer.encode(x)
    torch.random.set_rng_state(state)
    assert torch.equal(x, before)
    assert list(first.parts) == list(second.parts)
    for name, part in first.parts.items():
        assert part.shape[:3] == (2, 2, 3)
        assert torch.equal(part, second.parts[name])


@each
def test_nothing_is_drawn_at_random(quantizer: Quantizer) -> None:
    state = torch.random.get_rng_state()
    quantizer.encode(frames(1, 1, 1, 32))
    assert torch.equal(state, torch.random.get_rng_state())


@each
def test_heads_and_frames_are_encoded_alone(quantizer: Quantizer) -> None:
    x = frames(2, 3, 4, 32)
    whole = quantizer.encode(x)
    for heads, places in ((slice(0, 1), slice(1, 3)), (slice(1, 3), slice(3, 4))):
        alone = quantizer.encode(x[:, heads, places])
        for name, part in whole.parts.items():
            assert torch.equal(alone.parts[name], part[:, heads, places]), name


@each
def test_any_heads_and_frames_are_staged_alone(quantizer: Quantizer) -> None:
    """Into any layout and dtype: rows of a wider scratch, every second frame."""
    packed = quantizer.encode(frames(2, 3, 4, 32))
    whole = torch.empty(packed.shape)
    quantizer.stage(packed, whole)
    for heads, places in ((slice(1, 2), slice(0, 3)), (slice(0, 3), slice(2, 4))):
        part = packed.view(heads, places)
        wide = torch.zeros(2, part.shape[1], 2 * part.shape[2], 32, WIDTH, dtype=torch.bfloat16)
        quantizer.stage(part, wide[:, :, ::2])
        assert torch.equal(wide[:, :, ::2], whole[:, heads, places].bfloat16())
        assert not wide[:, :, 1::2].any()


@each
@pytest.mark.parametrize("grid", [(4, 8), (5, 8), (7, 9)])
def test_any_frame_that_passes_the_check_is_served(
    quantizer: Quantizer, grid: tuple[int, int]
) -> None:
    quantizer.check(spec(grid=grid))
    x = frames(2, 1, 1, grid[0] * grid[1], dtype=torch.bfloat16)
    back = quantizer.decode(quantizer.encode(x), torch.bfloat16)
    assert back.shape == x.shape
    assert (back - x).float().norm() < 0.6 * x.float().norm()


@each
@pytest.mark.parametrize("value", [0.0, 1e-6, 3e4])
def test_constants_of_any_size_stay_finite(quantizer: Quantizer, value: float) -> None:
    x = torch.full((1, 1, 1, 32, WIDTH), value)
    back = quantizer.decode(quantizer.encode(x), torch.float32)
    assert back.isfinite().all()
    assert (back - x).norm() <= 4 * x.norm()  # rotated, one channel; half a step in all others


@each
def test_true_sizes_are_served_and_known_without_values(quantizer: Quantizer) -> None:
    quantizer.check(TRUE)
    shape = (1, 1, 1, TRUE.tokens_per_frame, TRUE.head_dim)
    real = quantizer.encode(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    traced = quantizer.encode(torch.empty(shape, device="meta"))
    assert {n: (p.shape, p.dtype) for n, p in real.parts.items()} == {
        n: (p.shape, p.dtype) for n, p in traced.parts.items()
    }
    assert real.bits <= 8 * real.nbytes / torch.Size(shape).numel()


@each
def test_per_token_means_that_tokens_can_be_picked(quantizer: Quantizer) -> None:
    packed = quantizer.encode(frames(2, 2, 3, 32))
    rows = all(part.dim() > 3 and part.shape[3] == 32 for part in packed.parts.values())
    assert quantizer.per_token <= rows
    if quantizer.per_token:
        chosen = [1, 5, 30]
        parts = {name: part[:, :, :, chosen] for name, part in packed.parts.items()}
        some = replace(packed, parts=parts, page=(len(chosen), WIDTH))
        whole = quantizer.decode(packed, torch.float32)
        torch.testing.assert_close(quantizer.decode(some, torch.float32), whole[:, :, :, chosen])


def test_who_is_per_token() -> None:
    row, column = RTN(group=32, axis="channels"), RTN()
    assert row.per_token and QuaRot(row).per_token and Normed(row).per_token and Exact().per_token
    assert PRQ(row, row).per_token and not PRQ(row, column).per_token
    assert not (column.per_token or QuaRot(column).per_token or Normed(column).per_token)


def test_a_group_wider_than_the_head_is_the_head() -> None:
    x = frames(1, 2, 1, 32)
    wide, own = (RTN(group=n, axis="channels", short_tail=True) for n in (128, WIDTH))
    assert torch.equal(wide.encode(x).parts["scale"], own.encode(x).parts["scale"])
    with pytest.raises(ValueError, match="does not divide the 32 channels"):
        RTN(group=128, axis="channels").check(spec())
    with pytest.raises(ValueError, match="does not divide the 32 channels"):
        RTN(group=24, axis="channels", short_tail=True).check(spec())


def test_more_bits_take_more_bytes() -> None:
    x = torch.zeros(1, 1, 1, 1560, 128)
    for names in (
        "rtn_int2 rtn_int4 rtn_int8",
        "rtn_asym_int2 rtn_asym_int4 rtn_asym_int8",
        "turboquant_int2 int4_token quarot_int4 int8_token",
        "kvquant_nuq2 kvquant_nuq4 fp8_e5m2",
        "qvg_int2 qvg_pro_int2 qvg_int4",
        "quarot_sym_int2 mxfp4 nvfp4 fp8_e5m2 fp8_e4m3",
    ):
        sizes = [bits(method_of(n, "model=self_forcing").key, x) for n in names.split()]
        assert sizes == sorted(sizes) and len(set(sizes)) == len(sizes)


def test_the_matched_pair_takes_the_bytes_of_four_bits() -> None:
    x = torch.zeros(1, 1, 1, 1560, 128)
    pair, plain = (
        bits(method_of(n, "model=self_forcing").key, x) for n in ("prq_matched_int4", "rtn_int4")
    )
    assert abs(pair / plain - 1) < 0.02


def test_a_part_stored_twice_is_refused() -> None:
    packed = RTN().encode(frames(1, 1, 1, 32))
    with pytest.raises(ValueError, match="scale is stored twice"):
        joined(packed, {"scale": packed.parts["scale"]})


@pytest.mark.parametrize("path", sorted((CONF / "method").glob("**/*.yaml")), ids=lambda p: p.stem)
def test_a_file_says_what_it_is_and_where_it_is_from(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# ") and len(text.splitlines()[0]) <= 100
    method = method_of(str(path.relative_to(CONF / "method").with_suffix("")))
    assert method.family and method.source
