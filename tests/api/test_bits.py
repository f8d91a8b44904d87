from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.api.bits import WIDTHS, pack, unpack


@settings(deadline=None)  # the first call of a loaded machine is slow
@given(st.sampled_from(WIDTHS), st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**31))
def test_unpack_undoes_pack_and_bytes_are_really_saved(
    bits: int, rows: int, bytes_per_row: int, seed: int
) -> None:
    width = bytes_per_row * 8 // bits
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (rows, width), generator=generator, dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.nbytes == rows * bytes_per_row
    assert torch.equal(unpack(packed, bits), codes)


def test_planes_are_contiguous_slices_of_channels() -> None:
    codes = torch.tensor([[1, 2, 3, 4]], dtype=torch.uint8)
    assert pack(codes, 4).tolist() == [[1 + 16 * 3, 2 + 16 * 4]]
