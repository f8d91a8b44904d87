"""The compiled loops against torch: every quantizer that describes its codes, bit for bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import torch
from torch import Tensor

from harness.api import Exact, Packed, Quantizer
from harness.cache import compiled
from harness.cache.attention.compiled import Compiled
from harness.cache.pages import Pages, encode_into, stage_by_torch
from methods.quantizers.affine import Affine
from methods.quantizers.channelwise import Centered, ChannelScaled
from methods.quantizers.clustered import Clustered
from methods.quantizers.fp4 import MXFP4, NVFP4
from methods.quantizers.fp8 import FP8
from methods.quantizers.lloyd_max import LloydMax
from methods.quantizers.normed import Normed
from methods.quantizers.nuq import NUQ
from methods.quantizers.outliers import Outliers
from methods.quantizers.prq import PRQ
from methods.quantizers.quarot import QuaRot
from methods.quantizers.rtn import RTN
from methods.quantizers.rtn_e4m3 import RTNE4M3

needs_numba = pytest.mark.skipif(compiled.missing() is not None, reason=str(compiled.missing()))
QUANTIZERS: dict[str, Quantizer] = {
    "rtn8": RTN(bits=8),
    "rtn4": RTN(bits=4, short_tail=True),
    "rtn2": RTN(bits=2),
    "zero_level": RTN(bits=4, zero_level=True),
    "tail": RTN(bits=4, group=32, short_tail=True),
    "affine8": Affine(bits=8),
    "affine4": Affine(bits=4),
    "token4": Affine(bits=4, group=32, axis="channels"),
    "head8": RTN(bits=8, group=128, axis="channels", short_tail=True),
    "half2": Affine(bits=2, group=16, axis="channels"),
    "input": RTN(bits=4, compute="input"),
    "quarot4": QuaRot(Affine(bits=4, group=32, axis="channels")),
    "centered4": Centered(RTN(bits=4)),
    "scaled4": ChannelScaled(Affine(bits=4, group=32, axis="channels")),
    "prq": PRQ(RTN(bits=2), RTN(bits=4)),
    "prq, two kinds of groups": PRQ(
        Affine(bits=4, group=32, axis="channels"), RTN(bits=2, group=32, short_tail=True)
    ),
    "prq, a level at zero": PRQ(RTN(bits=2), RTN(bits=2, zero_level=True)),
    "fp8": FP8(),
    "fp8_cast": FP8(format="e5m2", scaled=False),
    "fp8_prq": PRQ(RTN(bits=4), FP8()),
    "nuq4": NUQ(bits=4),
    "nuq2_token": NUQ(bits=2, axis="channels"),
    "nuq_prq": PRQ(FP8(), NUQ(bits=2)),
    "turboquant4": QuaRot(Normed(LloydMax(bits=4)), seed=0),
    "turboquant2": QuaRot(Normed(LloydMax(bits=2)), seed=0),
    "mxfp4": MXFP4(),
    "nvfp4": NVFP4(),
    "nvfp4_prq": PRQ(MXFP4(), NVFP4()),
    "e4m3_tokens": RTNE4M3(bits=2),
    "qvg2": Clustered(RTNE4M3(2, 16, "channels", zero_level=True), tokens_each=8),
    "qvg_pro2": Clustered(
        Clustered(RTNE4M3(2, 64, "channels", short_tail=True), tokens_each=8), tokens_each=8
    ),
    "clustered_centered": Clustered(Centered(RTN(bits=4)), tokens_each=8),
    "centered_clustered": Centered(Clustered(RTN(bits=4), tokens_each=8)),
    "normed4": Normed(Affine(bits=4)),
    "centered_normed": Centered(Normed(RTN(bits=4))),
    "normed_centered": Normed(Centered(RTN(bits=4))),
    "prq_centered": PRQ(Centered(RTN(bits=4)), RTN(bits=2)),
    "outliers4": Outliers(RTN(bits=4)),
    "outliers_nuq4": Outliers(NUQ(bits=4)),
    "centered_outliers": Centered(Outliers(RTN(bits=4))),
    "clustered_outliers": Clustered(Outliers(RTN(bits=4)), tokens_each=8),
    "exact": Exact(),
}
# No loop knows how to choose their codes or metadata.
BY_TORCH = {
    *("zero_level", "input", "prq, a level at zero", "prq_centered", "exact"),
    *("outliers_nuq4", "clustered_outliers"),
    *("fp8", "fp8_cast", "fp8_prq", "nuq4", "nuq2_token", "nuq_prq", "turboquant4", "turboquant2"),
    *("mxfp4", "nvfp4", "nvfp4_prq", "e4m3_tokens", "qvg2", "qvg_pro2", "clustered_centered"),
    *("centered_clustered", "normed4", "centered_normed", "normed_centered", "centered_outliers"),
}
SLOTS = (5, 0, 1, 3)  # in reading order, with holes


def drawn(dtype: torch.dtype, num_tokens: int = 48, width: int = 32) -> Tensor:
    """Frames whose channels differ in size, with the extremes of what FP16 metadata can hold."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, len(SLOTS), num_tokens, width, generator=random)
    x = x * torch.randn(width, generator=random).exp() + torch.randn(width, generator=random)
    x[0, 0, 0, :, 3] *= 1e-7  # scales below FP16's smallest normal number
    x[0, 1, 1, :, 5] = 70000.0  # constant, and beyond its largest
    x[1, 1, 0] = 0
    return x.to(dtype)


def room_of(quantizer: Quantizer, x: Tensor) -> Packed:
    """Empty pages, two more than there are frames."""
    like = quantizer.encode(x)
    parts = {
        name: part.new_zeros(*part.shape[:2], part.shape[2] + 2, *part.shape[3:])
        for name, part in like.parts.items()
    }
    return replace(like, parts=parts)


@needs_numba
@pytest.mark.parametrize(("dtype", "width"), [(torch.bfloat16, 128), (torch.float32, 32)], ids=str)
@pytest.mark.parametrize("name", QUANTIZERS)
def test_loops_decode_and_encode_what_torch_does(name: str, dtype: torch.dtype, width: int) -> None:
    """With 32 channels, sixteen neighbours of 2 bits do not share a field of their bytes."""
    from harness.cache.compiled.pages import Access

    quantizer, x = QUANTIZERS[name], drawn(dtype, width=width)
    ours, theirs = room_of(quantizer, x), room_of(quantizer, x)
    access = Access.of(quantizer, ours)
    assert (access is not None and access.can_encode(x)) == (name not in BY_TORCH)
    Compiled().write(quantizer, x, ours, Pages(ours, ours, SLOTS))
    encode_into(quantizer, x, theirs, Pages(theirs, theirs, SLOTS))
    for part, tensor in theirs.parts.items():
        assert torch.equal(ours.parts[part], tensor), part
    pages, heads, frames = Pages(ours, ours, SLOTS), slice(1, 3), slice(1, 4)
    for out in (torch.bfloat16, torch.float32):
        mine, expected = (torch.full((2, 2, 3 * 48 + 7, width), 9.0, dtype=out) for _ in "12")
        Compiled().stage(quantizer, ours, pages, heads, frames, mine[:, :, 3:-4])
        stage_by_torch(quantizer, ours, pages, heads, frames, expected[:, :, 3:-4])
        assert torch.equal(mine.view(torch.int16), expected.view(torch.int16))  # -0.0 is not 0.0


@needs_numba
@pytest.mark.parametrize("gap", [0, 8])
@pytest.mark.parametrize("name", ["rtn8", "rtn4", "rtn2", "quarot4", "half2", "prq", "zero_level"])
def test_large_tensors_are_written_with_non_temporal_stores(
    name: str, gap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are not aligned to cache lines (a gap of 8 values) take ordinary stores."""
    from harness.cache.compiled import pages as loops_over_pages

    monkeypatch.setattr(loops_over_pages, "STREAMED", 0)
    quantizer = QUANTIZERS[name]
    packed = quantizer.encode(drawn(torch.bfloat16, width=128))
    pages, heads, frames = Pages(packed, packed, SLOTS[1:]), slice(1, 3), slice(1, 3)
    mine, expected = (torch.full((2, 2, 100, 128 + gap), 9.0).bfloat16() for _ in "12")
    for stage, out in ((Compiled().stage, mine), (stage_by_torch, expected)):
        stage(quantizer, packed, pages, heads, frames, out[:, :, 2:-2, gap:])
    assert torch.equal(mine.view(torch.int16), expected.view(torch.int16))


@needs_numba
@pytest.mark.parametrize("name", ["rtn4", "prq, two kinds of groups"])
def test_a_short_last_group_of_tokens(name: str) -> None:
    quantizer, x = QUANTIZERS[name], drawn(torch.bfloat16, num_tokens=40)
    ours = room_of(quantizer, x)
    Compiled().write(quantizer, x, ours, Pages(ours, ours, SLOTS))
    packed = quantizer.encode(x)
    for part, tensor in packed.parts.items():
        assert torch.equal(ours.parts[part][:, :, list(SLOTS)], tensor), part
    mine, expected = torch.empty(2, 3, 160, 32), torch.empty(2, 3, 4, 40, 32)
    Compiled().stage(quantizer, ours, Pages(ours, ours, SLOTS), slice(0, 3), slice(0, 4), mine)
    quantizer.stage(packed, expected)
    assert torch.equal(mine, expected.flatten(2, 3))


@needs_numba
def test_what_is_not_a_number_stays_none() -> None:
    """The check of decoded history must find it."""
    quantizer, x = Affine(bits=4), drawn(torch.bfloat16)
    packed = quantizer.encode(x)
    packed.parts["zero"][1, 2, 3, 1, 7] = torch.nan
    packed.parts["scale"][0, 0, 0, 0, 0] = torch.inf
    out = torch.empty(2, 3, 4 * 48, 32, dtype=torch.bfloat16)
    everything = slice(0, 3), slice(0, 4)
    Compiled().stage(quantizer, packed, Pages(packed, packed, (0, 1, 2, 3)), *everything, out)
    assert out[1, 2, 3 * 48 + 16 : 3 * 48 + 32, 7].isnan().all()
    assert not out[0, 0, :16, 0].isfinite().any()


@needs_numba
def test_values_of_an_unfinished_chunk_may_lie_apart() -> None:
    x = drawn(torch.float32).transpose(3, 4).contiguous().transpose(3, 4)
    packed, everything = Exact().encode(x), (slice(0, 3), slice(0, 4))
    out = torch.empty(2, 3, 4 * 48, 32)
    Compiled().stage(Exact(), packed, Pages(packed, packed, (0, 1, 2, 3)), *everything, out)
    assert torch.equal(out, x.flatten(2, 3))


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from harness.cache.compiled import pages

    monkeypatch.setattr(pages, "SHARE", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@needs_numba
@pytest.mark.usefixtures("three_threads")
def test_threads_share_the_frames_also_after_a_fork() -> None:
    test_loops_decode_and_encode_what_torch_does("rtn4", torch.bfloat16, 128)
    # The child runs the loops alone: torch's own threads do not survive a fork.
    packed, out = RTN(bits=4).encode(drawn(torch.bfloat16)), torch.empty(2, 3, 4 * 48, 32)
    everything = Pages(packed, packed, (0, 1, 2, 3)), slice(0, 3), slice(0, 4), out
    child = os.fork()
    if not child:  # no exception may leave the child: it would go on as a second test run
        status = 1
        try:
            signal.alarm(60)
            Compiled().stage(RTN(bits=4), packed, *everything)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_a_cache_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(compiled, "FOLDER", tmp_path / "file" / "compiled")
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: object())
    compiled.missing.cache_clear()
    try:
        assert "cannot keep what it compiles" in str(compiled.missing())
        monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
        compiled.missing.cache_clear()
        assert compiled.missing() == "numba is not installed"
    finally:
        compiled.missing.cache_clear()


@needs_numba
def test_only_the_first_process_of_a_machine_starts_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.cache.compiled import once, pages  # need numba

    load = pages.load.__wrapped__  # without the memory of this process
    started: list[Sequence[str]] = []
    second = Thread(target=load)

    def compiling(command: Sequence[str], check: bool) -> None:
        started.append(command)
        if len(started) == 1:
            second.start()
            second.join(0.1)  # it waits for the first; if it did not, it would start another

    monkeypatch.setattr(once, "COMPILED", tmp_path / "compiled")
    monkeypatch.setattr(once.subprocess, "run", compiling)
    load()
    second.join()
    load()
    assert len(started) == 1 and started[0][1:] == ["-m", "harness.cache.compiled.pages"]
