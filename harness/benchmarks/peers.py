"""Compares our quantizers with those of other projects, on the same keys (extra `peers`).

Per case: the stored bits with everything that decoding reads, the error after one round, the error
of attention over the decoded keys, and the times to encode and to decode.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor

from harness.api import CacheSpec, Exact, Method
from harness.benchmarks.cases import segments
from harness.benchmarks.checks import relative
from harness.benchmarks.lab import on_cpu
from harness.benchmarks.options import Options
from harness.benchmarks.realistic import realistic_keys
from harness.benchmarks.report import Report, Row
from harness.benchmarks.timing import ROUNDS, Action, clock_of, interleave
from harness.cache.attention.base import Segment
from harness.cache.attention.portable import Portable
from harness.cache.pages import Arena
from harness.config.compose import configured
from harness.system.errors import UserError

TITLE = "Quantizers of other projects beside ours: bits, errors and times on the same keys"
CPU = torch.device("cpu")
TRUE = CacheSpec(num_layers=1, num_heads=4, head_dim=128, grid=(30, 52), chunk_frames=3)
SMALL = CacheSpec(num_layers=1, num_heads=1, head_dim=128, grid=(8, 16), chunk_frames=3)
NUM_QUERIES = 256
# Words of the command line, so that a reader can run what a row measures.
OURS = (
    *("rtn_int8", "kivi_g64_int4 method.key.bits=8", "int8_token", "rtn_int4", "kivi_g64_int4"),
    *("kivi_int4", "quarot_int4", "turboquant_int4", "rtn_int2", "kivi_g64_int2", "quarot_int2"),
)


class Case(Protocol):
    """A quantizer that stores keys [B, H, T, D]."""

    def encode(self, k_BHTD: Tensor) -> object:
        """Return what is stored of the keys."""
        ...

    def decode(self, stored: Any) -> Tensor:
        """Return the keys again [B, H, T, D]."""
        ...


@dataclass(frozen=True)
class Peer:
    """A quantizer of another project.

    modules, packages: what must be importable, and the packages whose versions affect the numbers.
    build: makes the case for keys like an example [B, H, T, D].
    device: where it runs.
    """

    modules: tuple[str, ...]
    packages: tuple[str, ...]
    build: Callable[[Tensor], Case]
    device: torch.device = CPU

    @property
    def lacks(self) -> str | None:
        """What is missing here, in words; None if nothing."""
        for name in self.modules:
            if importlib.util.find_spec(name.split(".")[0]) is None:
                return f"{name} is not installed"
        if self.device.type == "cuda" and not torch.cuda.is_available():
            return "it runs on a GPU only, and CUDA finds none"
        return None

    @property
    def versions(self) -> str:
        """Packages with their versions."""
        return ", ".join(f"{name} {_version(name)}" for name in self.packages)


class CacheLayer:
    """A quantized cache layer of transformers (`QuantoQuantizedLayer`, `HQQQuantizedLayer`)."""

    def __init__(self, name: str, bits: int, like_BHTD: Tensor) -> None:
        """Build the layer with its default group size and axis."""
        from transformers import cache_utils

        self._layer = getattr(cache_utils, name)(nbits=bits)
        self._layer.lazy_initialization(like_BHTD, like_BHTD)

    def encode(self, k_BHTD: Tensor) -> object:
        """Return what the layer stores."""
        # Not by `update`: its first call returns the exact keys, and later ones keep the newest
        # 128 tokens exact, so both would hide the error.
        return self._layer._quantize(k_BHTD.contiguous(), axis=self._layer.axis_key)

    def decode(self, stored: Any) -> Tensor:
        """Return the keys as the layer's attention gets them."""
        found: Tensor = self._layer._dequantize(stored)
        return found


class Int8PerToken:
    """torchao's affine INT8 with a scale and a zero point per token and head."""

    def __init__(self, like_BHTD: Tensor) -> None:
        """Take the width of a block from the keys."""
        from torchao.quantization import quant_primitives

        self._torchao, self._block = quant_primitives, (1, 1, 1, like_BHTD.shape[-1])
        self._dtype = like_BHTD.dtype

    def encode(self, k_BHTD: Tensor) -> object:
        """Return codes, scales and zero points."""
        kind = self._torchao.MappingType.ASYMMETRIC
        scale, zero = self._torchao.choose_qparams_affine(
            k_BHTD, kind, self._block, torch.int8, zero_point_dtype=torch.int8
        )
        codes = self._torchao.quantize_affine(k_BHTD, self._block, scale, zero, torch.int8)
        return codes, scale, zero

    def decode(self, stored: Any) -> Tensor:
        """Return the keys in the dtype of the example."""
        codes, scale, zero = stored
        found: Tensor = self._torchao.dequantize_affine(
            codes, self._block, scale, zero, torch.int8, output_dtype=self._dtype
        )
        return found


class QuantVideoGen:
    """The official Quant-VideoGen: residuals of k-means centroids, of one chunk of keys.

    Source  svg-project/Quant-VideoGen, `quant_videogen/functions.py`, which its `compress_kv_cache`
            calls for keys and for values; its scripts take 256 centroids and 2 iterations.
    """

    def __init__(self, bits: int, stages: int, group: int, like_BHTD: Tensor) -> None:
        """Take the settings of a script, and the dtype of the keys.

        bits: of the residuals, which share a scale in FP8 per `group` channels.
        stages: how often centroids are subtracted.
        """
        from quant_videogen import functions

        self._functions, self._dtype = functions, like_BHTD.dtype
        self._bits, self._stages, self._group = bits, stages, group

    def encode(self, k_BHTD: Tensor) -> object:
        """Return centroids, their numbers, packed residuals and scales, by name."""
        return self._functions.triton_prq_quantize_tensor(
            k_BHTD,
            num_stages=self._stages,
            num_clusters=256,
            block_size=self._group,
            max_iters=2,
            quantize_fn=lambda _: self._bits,  # it asks this function for the number of bits
        )

    def decode(self, stored: Any) -> Tensor:
        """Return the keys in the dtype of the example."""
        found: Tensor = self._functions.triton_prq_dequantize_tensor(
            stored, self._group, self._bits, output_dtype=self._dtype
        )
        return found


class Ours:
    """The keys of a method, stored and read as the cache does on this CPU."""

    def __init__(self, words: str, tokens_per_frame: int) -> None:
        """Build a method from its name and settings, e.g. `rtn_int4 method.key.group=32`."""
        name, *settings = words.split()
        config = configured(f"method={name}", "model=self_forcing", *settings)
        self._method: Method = instantiate(config["method"])
        self._tokens = tokens_per_frame
        backend = next(iter(on_cpu().values()))
        assert isinstance(backend, Portable)
        self._backend = backend

    def encode(self, k_BHTD: Tensor) -> object:
        """Return the stored frames as a segment."""
        keys = k_BHTD.unflatten(2, (-1, self._tokens))
        num_frames = keys.shape[2]
        arena = Arena(self._method.key, Exact(), num_frames, self._backend.write)
        # An arena stores values too; one channel of them costs next to nothing.
        arena.store(list(range(num_frames)), keys, keys[..., :1])
        (segment,) = segments(arena)
        return segment

    def decode(self, stored: Any) -> Tensor:
        """Return the keys in BF16."""
        # Rotated keys are rotated back, as in a peer. Attention saves that: it rotates the queries.
        batch, num_heads, num_frames, tokens, width = stored.pages.key.shape
        out = torch.empty(batch, num_heads, num_frames * tokens, width, dtype=torch.bfloat16)
        stored.load_keys(slice(0, num_heads), slice(0, num_frames), out, None, self._backend.stage)
        return out


def _of_transformers(name: str, bits: int, *packages: str) -> Peer:
    """Return a layer of transformers that needs some further packages."""
    modules = ("transformers", *packages)
    installed = ("transformers", *(each.replace(".", "-") for each in packages))
    return Peer(modules, installed, partial(CacheLayer, name, bits))


PEERS: dict[str, Peer] = {
    **{
        f"transformers, quanto INT{bits}": _of_transformers(
            "QuantoQuantizedLayer", bits, "optimum.quanto"
        )
        for bits in (4, 2)
    },
    **{
        f"transformers, HQQ INT{bits}": _of_transformers("HQQQuantizedLayer", bits, "hqq")
        for bits in (8, 4, 2)
    },
    "torchao, INT8 per token": Peer(("torchao",), ("torchao",), Int8PerToken),
    # The settings of its paper: one stage and groups of 64 channels, or four and 16 ("Pro").
    **{
        f"Quant-VideoGen{word} INT{bits}": Peer(
            ("quant_videogen", "triton"),
            ("quant_videogen", "triton"),
            partial(QuantVideoGen, bits, stages, group),
            torch.device("cuda"),
        )
        for word, bits, stages, group in (("", 2, 1, 64), ("", 4, 1, 64), (" Pro", 2, 4, 16))
    },
}


def run(options: Options) -> int:
    """Measure our quantizers and those of the peers that are installed.

    Raises  UserError: no peer is installed.
    """
    lacking = {name: peer.lacks for name, peer in PEERS.items() if peer.lacks}
    if len(lacking) == len(PEERS):
        raise UserError(
            f"bench peers: no peer can run ({', '.join(sorted(set(lacking.values())))}); type "
            "pip install -c constraints.txt '.[peers]'"
        )
    spec, rounds = (SMALL, 1) if options.quick else (TRUE, ROUNDS)
    # Frames and their tokens become one axis, [B, H, T, D], which the other projects expect.
    k = realistic_keys(spec, 3).bfloat16().flatten(2, 3)
    draws = torch.Generator().manual_seed(1)
    q = torch.randn(*k.shape[:2], NUM_QUERIES, k.shape[3], generator=draws)
    # The exact keys serve as values too, so that only the error of the keys counts.
    exact = F.scaled_dot_product_attention(q, k.float(), k.float())
    here = {name: peer for name, peer in PEERS.items() if name not in lacking}
    with Report("peers", TITLE, CPU, options) as report:
        for device in dict.fromkeys([CPU, *(peer.device for peer in here.values())]):
            keys = k.to(device)
            cases: dict[str, tuple[Case, str]] = {}
            if device == CPU:
                for words in OURS:
                    cases[f"ours, {words}"] = Ours(words, spec.tokens_per_frame), ""
            for name, peer in here.items():
                if peer.device == device:
                    cases[name] = peer.build(keys), peer.versions
            # Quant-VideoGen's centroids start from tokens that the process draws.
            torch.manual_seed(0)
            stored = {name: case.encode(keys) for name, (case, _) in cases.items()}
            # The warm-up counts: quanto compiles its first decode for a minute, and Triton tunes.
            encode = {name: partial(_encode, case, keys) for name, (case, _) in cases.items()}
            decode: dict[str, Action] = {"a copy in BF16": partial(_copy, keys)}
            decode |= {
                name: partial(_decode, case, stored[name]) for name, (case, _) in cases.items()
            }
            encoding = interleave(encode, clock_of(device), rounds)
            decoding = interleave(decode, clock_of(device), rounds)
            for name, (case, versions) in cases.items():
                found = case.decode(stored[name]).float().to(CPU)
                num_bits = 8 * stored_bytes(stored[name]) / k.numel()
                attended = F.scaled_dot_product_attention(q, found, k.float())
                ratio = decoding.ratio(name, "a copy in BF16")
                more = {
                    "bits": num_bits,
                    "attention_error": relative(attended, exact),
                    "encode_ms": 1e3 * encoding.of(name).middle,
                    "decode_ms": 1e3 * decoding.of(name).middle,
                    "decode_over_copy": ratio.middle,
                }
                note = (
                    f"{num_bits:.3f} bits; attention {more['attention_error']:.4f}; encode "
                    f"{more['encode_ms']:.3g} ms, decode {more['decode_ms']:.3g} ms, "
                    f"{ratio.middle:.3g} copies"
                )
                note += f"; {versions}" if versions else ""
                if device != CPU:
                    note += f"; on {torch.cuda.get_device_name(device)}"
                report.add(Row("error of keys", name, relative(found, k), note=note, more=more))
        for name, sentence in lacking.items():
            report.add(Row("error of keys", name, note=sentence))
    return 0


def _version(package: str) -> str:
    """Return the version of an installed package, or of the one that holds a module."""
    # Quant-VideoGen is known by its module only. A checkout of it on the path has no version.
    holders = importlib.metadata.packages_distributions().get(package, [package])
    try:
        return importlib.metadata.version(holders[0])
    except importlib.metadata.PackageNotFoundError:
        return "of an unknown version"


def stored_bytes(stored: Any) -> int:
    """Return the bytes of all tensors in what a case stores: everything that decoding reads."""
    if isinstance(stored, Segment):
        return stored.pages.key.nbytes
    # Subclasses of tensors name the tensors that they consist of.
    if hasattr(stored, "__tensor_flatten__"):
        return sum(stored_bytes(getattr(stored, name)) for name in stored.__tensor_flatten__()[0])
    if isinstance(stored, Tensor):
        return stored.nbytes
    if isinstance(stored, Mapping):
        return sum(map(stored_bytes, stored.values()))
    if isinstance(stored, tuple | list):
        return sum(map(stored_bytes, stored))
    return 0


# `partial` binds these to a case; the number of the round, which an action takes, does not matter.
def _encode(case: Case, k_BHTD: Tensor, _: int) -> object:
    return case.encode(k_BHTD)


def _decode(case: Case, stored: object, _: int) -> object:
    return case.decode(stored)


def _copy(k_BHTD: Tensor, _: int) -> object:
    return k_BHTD.clone()
