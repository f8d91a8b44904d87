"""Loads checkpoints of all published formats and namings into the network.

Published files differ in format, in the key that holds the weights (`generator`, `generator_ema`,
`model`, or none), in prefixes of training wrappers, and in native or diffusers names. A network
uses its native names. A checkpoint must match them exactly, or nothing is loaded.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from harness.models.checkpoints.files import Stored, batches, contents, files_of, take
from harness.models.checkpoints.lora import Lora
from harness.models.checkpoints.names import diffusers_name, is_diffusers, plain, some
from harness.system import file_hashes
from harness.system.errors import UserError

_MIB = 1 << 20


@runtime_checkable
class MixedDtypes(Protocol):
    """Protocol of networks that keep some weights in fp32."""

    @property
    def fp32_weights(self) -> set[str]:
        """Names of the weights that are fp32, whatever the dtype of the network."""


def load_weights(
    module: nn.Module,
    path: Path,
    *,
    ema: bool,
    dtype: torch.dtype,
    device: torch.device,
    source: str | None = None,
    lora: Lora | None = None,
) -> None:
    """Load the weights at `path` into `module`.

    Host memory peaks near the size of the network. Afterwards every parameter and persistent buffer
    is a separate `dtype` tensor on `device`, without gradient; the `fp32_weights` of a module that
    has `MixedDtypes` are fp32. Non-persistent buffers do not change. If names or shapes do not
    match, the module stays unchanged.

    module: the network, on any device, including meta.
    path: a .pt, .pth or .safetensors file, or a folder of .safetensors shards.
    ema: use the EMA weights of a file that holds two sets. A file with one unnamed set works with
        both values.
    source: "owner/name path/in/repo" on the hub, for error messages.
    lora: adapter that is added to the weights.

    Source  formats and names of the published checkpoints of the Self-Forcing family.
    Shapes  those of `module.state_dict()`, which has the native names.
    Raises  UserError: the file is missing, unreadable or not supported; EMA weights are requested
            but absent; weights of 8 bits; names or shapes differ from the module's; the adapter
            does not fit.
    """
    # Check the names of the weights and of the adapter before the module changes.
    stored = matched(module, path, ema=ema, source=source)
    pairs = None if lora is None else lora.read(_shapes(module))
    fp32 = module.fp32_weights if isinstance(module, MixedDtypes) else set()
    for names in batches(stored):
        tensors = dict(zip(names, take([stored[name] for name in names]), strict=True))
        factors = {} if pairs is None else pairs.take(names)
        for name in names:
            tensor = tensors.pop(name)
            if pairs is not None and name in factors:
                tensor = pairs.added(tensor, factors.pop(name))
            # Always copy: a parameter must not reference the mapped file.
            copy = tensor.to(device, torch.float32 if name in fp32 else dtype, copy=True)
            owner, _, leaf = name.rpartition(".")
            holder = module.get_submodule(owner)
            if isinstance(getattr(holder, leaf), nn.Parameter):
                copy = nn.Parameter(copy, requires_grad=False)
            # Replace the parameter instead of filling it: it may be on the meta device.
            setattr(holder, leaf, copy)


def matched(
    module: nn.Module, path: Path, *, ema: bool, source: str | None = None
) -> dict[str, Stored]:
    """Find each tensor of `module` in a checkpoint, by native name, without reading values.

    Raises  UserError: see `load_weights`, except for adapters.
    """
    content = contents(files_of(path, source))
    # Weights as trained give another video than their average, so neither replaces the other.
    if ema and "generator" in content and "generator_ema" not in content:
        raise UserError(
            f"{path} holds no EMA weights, only {some(sorted(content))}: set ema=false or choose "
            "a checkpoint with generator_ema"
        )
    # Training dumps name their sets; other files hold the weights at the top level.
    names_of_sets = ("generator_ema",) * ema + ("generator", "model")
    sets = (each for name in names_of_sets if isinstance(each := content.get(name), Mapping))
    found: dict[str, Stored] = {}
    for key, value in next(sets, content).items():
        # Two keys may become one name, if a file has weights with and without a wrapper's prefix.
        name = plain(key)
        if not isinstance(value, Stored) or name in found:
            raise UserError(
                f"{path} holds {key}, which is no tensor or comes twice: choose a checkpoint with "
                "the weights at the top or under generator_ema, generator or model"
            )
        found[name] = value
    # Values of one byte are codes, which would be cast without an error, to weights without their
    # scales.
    packed = sorted(name for name, x in found.items() if 0 < x.nbytes == math.prod(x.shape))
    if packed:
        raise UserError(
            f"{path} stores weights in 8 bits ({some(packed)}), whose scales are not applied "
            "here: choose the checkpoint in BF16 or FP32"
        )
    wanted = _shapes(module)
    foreign = any(map(is_diffusers, found))
    # Compare in the names of the file, so that messages show names that the user can look up.
    names = {diffusers_name(name) if foreign else name: name for name in wanted}
    _demand_match(found, {theirs: wanted[ours] for theirs, ours in names.items()}, path)
    return {ours: found[theirs] for theirs, ours in names.items()}


def checkpoint_digest(path: Path) -> str:
    """Return a cheap digest of weights: **not** a checksum of all bytes.

    It is the SHA-256 over size, first MiB and last MiB of each file that `load_weights` would read,
    shards in order of name. It does not detect a change in the middle that keeps the size.

    Source  ours.
    Units   64 hexadecimal digits.
    Raises  UserError: the file is missing or not supported.
    """
    # Paths do not count: an encoder that was moved still has the rows that it made.
    digest = hashlib.sha256()
    for file in files_of(path):
        size = file.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with file.open("rb") as stream:
            digest.update(stream.read(_MIB))
            stream.seek(max(0, size - _MIB))
            digest.update(stream.read(_MIB))
    return digest.hexdigest()


def checkpoint_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of the list of the shards' SHA-256 and names.

    Each file is read once and its checksum is stored, see `harness.system.file_hashes`.

    Units   64 hexadecimal digits.
    Raises  UserError: the file is missing or not supported.
    """
    files = files_of(path)
    if files == [path]:
        return file_hashes.remembered(path)
    # The format of sha256sum, so that people can compute the digest themselves.
    lines = "".join(f"{file_hashes.remembered(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _demand_match(found: dict[str, Stored], wanted: dict[str, tuple[int, ...]], path: Path) -> None:
    """Check that all names and shapes match."""
    # All differences in one message: they tell another model from a damaged file.
    shared = sorted(wanted.keys() & found.keys())
    differences = (
        ("missing", sorted(wanted.keys() - found.keys())),
        ("unexpected", sorted(found.keys() - wanted.keys())),
        (
            "of another shape",
            [f"{x} {[*found[x].shape]}" for x in shared if found[x].shape != wanted[x]],
        ),
    )
    parts = [f"{len(names)} {what} ({some(names)})" for what, names in differences if names]
    if parts:
        raise UserError(
            f"{path} does not fit the {len(wanted)} tensors of this model: {', '.join(parts)}; "
            "choose the checkpoint of this model or the model of this checkpoint"
        )
