"""Checkpoints into the network: every container and naming in use, one exact set of names.

Published files differ in wrapping (`generator`, `generator_ema`, `model`, or nothing), in prefixes
that training wrappers left, in native or diffusers names, and in format. The network has one set
of names, the native ones of Wan2.1, and is given exactly that set or nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.models.checkpoints.files import Stored, batches, contents, files_of, take
from harness.models.checkpoints.lora import Lora
from harness.models.checkpoints.names import diffusers_name, is_diffusers, plain, some
from harness.system import file_hashes
from harness.system.errors import UserError

_MIB = 1 << 20


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
    """Fill `module`, built anywhere (the meta device too), from `path`; or raise, untouched.

    `path` is a .pt, .pth or .safetensors file or a folder of .safetensors shards. `ema` takes the
    EMA weights of a file that holds two sets; a file of one unnamed set serves both values.
    `source` is where the hub has it: "owner/name path/in/repo". `lora` is added on the way.

    Files are memory-mapped a part at a time, and each tensor is cast and placed by itself: host
    memory peaks near the size of the target. Afterwards every parameter and persistent buffer is a
    `dtype` tensor of its own on `device`, without gradient; non-persistent buffers stay as they
    were.

    Source  wrappings and names of the published checkpoints of the Self-Forcing family.
    Shapes  those of `module.state_dict()`, whose names are the native ones.
    Raises  UserError: file missing, unreadable, of another kind; EMA weights asked for and absent;
            names or shapes other than the module's; an adapter of another network.
    """
    stored = matched(module, path, ema=ema, source=source)
    pairs = None if lora is None else lora.read(_shapes(module))
    for names in batches(stored):
        tensors = dict(zip(names, take([stored[name] for name in names]), strict=True))
        factors = {} if pairs is None else pairs.take(names)
        for name in names:
            tensor = tensors.pop(name)
            if pairs is not None and name in factors:
                tensor = pairs.added(tensor, factors.pop(name))
            # A copy even where nothing changes: no parameter may hang on the mapped file.
            _place(module, name, tensor.to(device, dtype, copy=True))


def matched(
    module: nn.Module, path: Path, *, ema: bool, source: str | None = None
) -> dict[str, Stored]:
    """Where each tensor of `module` lies in a checkpoint, by native name; no value is read.

    Raises  UserError: as `load_weights`, but for adapters.
    """
    content = contents(files_of(path, source))
    found = _tensors(_select(content, path, ema), path)
    wanted = _shapes(module)
    foreign = any(map(is_diffusers, found))
    # Compared in the file's own language, so that messages name what its owner can look up.
    names = {diffusers_name(name) if foreign else name: name for name in wanted}
    _demand_match(found, {theirs: wanted[ours] for theirs, ours in names.items()}, path)
    return {ours: found[theirs] for theirs, ours in names.items()}


def checkpoint_digest(path: Path) -> str:
    """Cheap identity of weights that are read often: **not** a checksum of all of their bytes.

    SHA-256 over size, first MiB and last MiB of each file that `load_weights` would read, shards
    in order of name. A change in the middle that keeps the size goes unseen; paths do not count.

    Source  ours.
    Units   64 hexadecimal digits.
    Raises  UserError: file missing or of another kind.
    """
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
    """Checksum of all bytes: SHA-256 of the file; of several shards that of theirs, by name.

    Read once and noted beside each file, see `harness.system.file_hashes`.

    Units   64 hexadecimal digits.
    Raises  UserError: file missing or of another kind.
    """
    files = files_of(path)
    if files == [path]:
        return file_hashes.remembered(path)
    lines = "".join(f"{file_hashes.remembered(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _select(content: dict[str, object], path: Path, ema: bool) -> Mapping[str, object]:
    """The one set of weights that is asked for."""
    if ema and "generator" in content and "generator_ema" not in content:
        raise UserError(
            f"{path} holds no EMA weights, only {some(sorted(content))}: set ema=false or choose "
            "a checkpoint with generator_ema"
        )
    for name in ("generator_ema",) * ema + ("generator", "model"):
        chosen = content.get(name)
        if isinstance(chosen, Mapping):
            return chosen
    return content


def _tensors(weights: Mapping[str, object], path: Path) -> dict[str, Stored]:
    """The weights under plain names, without what training wrappers added."""
    found: dict[str, Stored] = {}
    for key, value in weights.items():
        name = plain(key)
        if not isinstance(value, Stored) or name in found:
            raise UserError(
                f"{path} holds {key}, which is no tensor or comes twice: choose a checkpoint with "
                "the weights at the top or under generator_ema, generator or model"
            )
        found[name] = value
    return found


def _demand_match(found: dict[str, Stored], wanted: dict[str, tuple[int, ...]], path: Path) -> None:
    """Compare all names and shapes before anything is changed."""
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


def _place(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Put the tensor where its name points, instead of what was there."""
    owner, _, leaf = name.rpartition(".")
    holder = module.get_submodule(owner)
    if isinstance(getattr(holder, leaf), nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=False)
    setattr(holder, leaf, tensor)
