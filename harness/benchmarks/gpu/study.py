"""Item 8: the published study's way of attending, beside ours for the same method.

It decodes the whole buffer of a layer, attends to it, and encodes the whole buffer again, in every
call. What is timed is written anew after arXiv 2603.27469 and its code: codes in bytes, fp16
metadata, groups of 16 tokens a channel, tensors [B, tokens, H, D], plain torch operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.benchmarks.cases import PRQ, Chunk, num_rows
from harness.benchmarks.checks import decoded
from harness.benchmarks.gpu.lab import Lab, call
from harness.benchmarks.timing import Action
from harness.cache.attention.dense import attend_plain

GROUP = 16
LEVELS = 7  # of 4 bits, on each side of zero
SHARE = 0.1  # our added time over the study's, at most

Codes = tuple[Tensor, ...]


@dataclass(frozen=True)
class Format:
    """How the study encodes and decodes one buffer [B, L, H, D]."""

    encode: Callable[[Tensor], Codes]
    decode: Callable[[Codes], Tensor]


def beside(lab: Lab) -> None:
    """What our call adds to BF16 over what the study's adds, at the length of a whole video."""
    chunk = lab.chunk()
    for name in lab.within(list(FORMATS)):
        history = lab.history(name, lab.full)
        k, v = decoded(chunk, history)
        num_tokens = num_rows(history) + chunk.k.shape[2]
        assert num_tokens % GROUP == 0
        times = lab.times(
            {
                "bf16": _dense(chunk, k, v),
                "ours": call(lab.staged(), chunk, history),
                "study": Path(FORMATS[name], chunk, k, v).call,
            },
            lab.sizes.study_calls,
        )
        ours, study = times.added("ours", "bf16"), times.added("study", "bf16")
        case = f"{name}, N = {num_tokens}"
        lab.add(f"{case}, the study's call / BF16", times.ratio("study", "bf16"), "x")
        lab.add(
            f"{case}, added by ours / by the study's",
            ours.middle / study.middle,
            "",
            target=SHARE,
            note=times.note,
            more={"ours_ms": ours.middle * 1e3, "study_ms": study.middle * 1e3},
        )


class Path:
    """A layer as the study holds it, and one call over it."""

    def __init__(self, formats: tuple[Format, Format], chunk: Chunk, k: Tensor, v: Tensor) -> None:
        """Encode the whole buffer once."""
        self._formats, self._q = formats, chunk.q
        self._stored = [f.encode(x.transpose(1, 2)) for f, x in zip(formats, (k, v), strict=True)]

    def call(self, number: int) -> Tensor:
        """Decode, attend, encode."""
        pairs = zip(self._formats, self._stored, strict=True)
        k, v = (each.decode(codes).to(self._q.dtype) for each, codes in pairs)
        out = attend_plain(self._q, k.transpose(1, 2), v.transpose(1, 2))
        self._stored = [f.encode(x) for f, x in zip(self._formats, (k, v), strict=True)]
        return out


def _dense(chunk: Chunk, k: Tensor, v: Tensor) -> Action:
    return lambda _: attend_plain(chunk.q, k, v)


def rtn(x: Tensor) -> Codes:
    """Symmetric codes: [B, N, 16, H, D] int8, scale fp16 a group."""
    groups = x.float().unflatten(1, (-1, GROUP))
    scale = (groups.abs().amax(2, keepdim=True) / LEVELS).clamp_min(1e-8)
    return (groups / scale).round().clamp(-LEVELS - 1, LEVELS).to(torch.int8), scale.half()


def rtn_back(codes: Codes) -> Tensor:
    """The inverse."""
    return (codes[0].float() * codes[1].float()).flatten(1, 2)


def _affine(groups: Tensor, dims: tuple[int, ...]) -> Codes:
    """Codes, scale and a zero point that is a code itself, as the study has it."""
    low, high = groups.amin(dims, keepdim=True), groups.amax(dims, keepdim=True)
    top = 2 * LEVELS + 1
    scale = ((high - low) / top).clamp_min(1e-8)
    zero = (-low / scale).round().clamp(0, top)
    codes = (groups / scale + zero).round().clamp(0, top).to(torch.uint8)
    return codes, scale.half(), zero.half()


def _affine_back(codes: Codes) -> Tensor:
    return (codes[0].float() - codes[2].float()) * codes[1].float()


def kivi_keys(x: Tensor) -> Codes:
    """A channel's groups of 16 tokens."""
    return _affine(x.float().unflatten(1, (-1, GROUP)), (2,))


def kivi_keys_back(codes: Codes) -> Tensor:
    """The inverse."""
    return _affine_back(codes).flatten(1, 2)


def kivi_values(x: Tensor) -> Codes:
    """A token's channels of all heads together."""
    return _affine(x.float(), (2, 3))


def fwht(x: Tensor) -> Tensor:
    """The Walsh-Hadamard transform of the last dimension by concatenation, stage by stage."""
    width, half = x.shape[-1], 1
    turned: Tensor = x.float()
    while half < width:
        pairs = turned.unflatten(-1, (-1, 2, half))
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        turned = torch.cat([a + b, a - b], -1).flatten(-2)
        half *= 2
    return torch.div(turned, width**0.5)


def quarot(x: Tensor) -> Codes:
    """Rotated, then as RTN."""
    return rtn(fwht(x))


def quarot_back(codes: Codes) -> Tensor:
    """The transform is its own inverse."""
    return fwht(rtn_back(codes))


def prq(x: Tensor) -> Codes:
    """RTN, and RTN of what it missed."""
    base = rtn(x)
    return (*base, *rtn(x.float() - rtn_back(base)))


def prq_back(codes: Codes) -> Tensor:
    """The sum of both."""
    return rtn_back(codes[:2]) + rtn_back(codes[2:])


FORMATS: dict[str, tuple[Format, Format]] = {
    "rtn_int4": (Format(rtn, rtn_back),) * 2,
    "kivi_int4": (Format(kivi_keys, kivi_keys_back), Format(kivi_values, _affine_back)),
    "quarot_int4": (Format(quarot, quarot_back),) * 2,
    PRQ: (Format(prq, prq_back),) * 2,
}
