"""Checkpoints into the network: every container and naming in use, one exact set of names.

Published files differ in wrapping (`generator`, `generator_ema`, `model`, or nothing), in prefixes
that training wrappers left, in native or diffusers names, and in format. The network has one set
of names, the native ones of Wan2.1, and is given exactly that set or nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.errors import UserError

_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
_TORN = (OSError, RuntimeError, ValueError, TypeError, EOFError, UnpicklingError, SafetensorError)
_MIB = 1 << 20

# Applied in this order. The norms swap numbers: diffusers' norm2 is the native norm3, and its own
# norm3 has no weights.
_TO_DIFFUSERS = (
    ("time_embedding.0.", "condition_embedder.time_embedder.linear_1."),
    ("time_embedding.2.", "condition_embedder.time_embedder.linear_2."),
    ("text_embedding.0.", "condition_embedder.text_embedder.linear_1."),
    ("text_embedding.2.", "condition_embedder.text_embedder.linear_2."),
    ("time_projection.1.", "condition_embedder.time_proj."),
    ("head.modulation", "scale_shift_table"),
    ("head.head.", "proj_out."),
    (".modulation", ".scale_shift_table"),
    (".self_attn.", ".attn1."),
    (".cross_attn.", ".attn2."),
    *((f".{name}.", f".to_{name}.") for name in "qkv"),
    (".o.", ".to_out.0."),
    (".norm3.", ".norm2."),
    (".ffn.0.", ".ffn.net.0.proj."),
    (".ffn.2.", ".ffn.net.2."),
)


def load_weights(
    module: nn.Module,
    path: Path,
    *,
    ema: bool,
    dtype: torch.dtype,
    device: torch.device,
    source: str | None = None,
) -> None:
    """Fill `module`, built anywhere (the meta device too), from `path`; or raise, untouched.

    `path` is a .pt, .pth or .safetensors file or a folder of .safetensors shards. `ema` takes the
    EMA weights of a file that holds two sets; a file of one unnamed set serves both values.
    `source` is where the hub has it: "owner/name path/in/repo".

    Files are memory-mapped, and each tensor is cast and placed by itself: host memory peaks near
    the size of the target. Afterwards every parameter and persistent buffer is a `dtype` tensor of
    its own on `device`, without gradient; non-persistent buffers stay as they were.

    Source  wrappings and names of the published checkpoints of the Self-Forcing family.
    Shapes  those of `module.state_dict()`, whose names are the native ones.
    Raises  UserError: file missing, unreadable, of another kind; EMA weights asked for and absent;
            names or shapes other than the module's.
    """
    found = _tensors(_select(_read(_files(path, source)), path, ema), path)
    target = module.state_dict()
    foreign = any(name.startswith("condition_embedder.") for name in found)
    # Compared in the file's own language, so that messages name what its owner can look up.
    names = {diffusers_name(name) if foreign else name: name for name in target}
    _demand_match(found, {theirs: target[ours].shape for theirs, ours in names.items()}, path)
    for theirs, ours in names.items():
        # A copy even where nothing changes: no parameter may hang on the mapped file.
        _place(module, ours, found[theirs].to(device, dtype, copy=True))


def checkpoint_digest(path: Path) -> str:
    """Cheap identity of a checkpoint for provenance: **not** a checksum of all of its bytes.

    SHA-256 over size, first MiB and last MiB of each file that `load_weights` would read, shards
    in order of name. A change in the middle that keeps the size goes unseen; paths do not count.

    Source  ours.
    Units   64 hexadecimal digits.
    Raises  UserError: file missing or of another kind.
    """
    digest = hashlib.sha256()
    for file in _files(path):
        size = file.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with file.open("rb") as stream:
            digest.update(stream.read(_MIB))
            stream.seek(max(0, size - _MIB))
            digest.update(stream.read(_MIB))
    return digest.hexdigest()


def diffusers_name(native: str) -> str:
    """Name of a native Wan2.1 tensor in diffusers' `WanTransformer3DModel`; shapes are equal."""
    for ours, theirs in _TO_DIFFUSERS:
        native = native.replace(ours, theirs)
    return native


def _files(path: Path, source: str | None = None) -> list[Path]:
    if path.is_dir():
        return _shards(path)
    if not path.exists():
        get = f"type `{_download(path, source)}` or " if source else ""
        raise UserError(f"found no checkpoint at {path}: {get}set the model's path to where it is")
    if path.suffix not in (".pt", ".pth", ".safetensors"):
        raise UserError(f"{path} is no .pt, .pth, .safetensors file and no folder: choose another")
    return [path]


def _download(path: Path, source: str) -> str:
    """The command that fetches `source`, to `path` where their ends agree."""
    inside = source.partition(" ")[2]
    root = str(path).removesuffix(inside)
    # `hf download` repeats the repository's own folders below --local-dir.
    return f"hf download {source}" + (f" --local-dir {root}" if root.endswith("/") else "")


def _shards(folder: Path) -> list[Path]:
    """The shards that the index names, or all of them where there is no index."""
    indices = sorted(folder.glob("*.safetensors.index.json"))
    shards = sorted(folder.glob("*.safetensors"))
    if len(indices) > 1 or not shards:
        raise UserError(
            f"{folder} holds {len(indices)} indices and {len(shards)} .safetensors files: choose a "
            "folder with the weights of one model (`transformer` in a diffusers folder)"
        )
    if not indices:
        return shards
    try:
        names = set(json.loads(indices[0].read_text())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{indices[0]} is no index of shards: download it again") from error
    missing = sorted(names - {shard.name for shard in shards})
    if missing:
        raise UserError(f"{folder} lacks shards ({_some(missing)}): download them again")
    return [shard for shard in shards if shard.name in names]


def _read(files: Sequence[Path]) -> dict[str, object]:
    """One dict of all files; its tensors stay on disk until they are touched."""
    content: dict[str, object] = {}
    for file in files:
        try:
            if file.suffix == ".safetensors":
                part: dict[str, object] = {**load_file(file)}
            else:
                part = {**torch.load(file, map_location="cpu", weights_only=True, mmap=True)}
        except _TORN as error:
            raise UserError(
                f"cannot read {file}, which is truncated, corrupt or holds more than named "
                "tensors: compare its size with the hub's and download it again"
            ) from error
        twice = sorted(content.keys() & part.keys())
        if twice:
            raise UserError(f"{file.parent} holds {_some(twice)} twice: keep one model's shards")
        content |= part
    return content


def _select(content: dict[str, object], path: Path, ema: bool) -> Mapping[str, object]:
    """The one set of weights that is asked for."""
    if ema and "generator" in content and "generator_ema" not in content:
        raise UserError(
            f"{path} holds no EMA weights, only {_some(sorted(content))}: set ema=false or choose "
            "a checkpoint with generator_ema"
        )
    for name in ("generator_ema",) * ema + ("generator", "model"):
        chosen = content.get(name)
        if isinstance(chosen, Mapping):
            return chosen
    return content


def _tensors(weights: Mapping[str, object], path: Path) -> dict[str, Tensor]:
    """The weights under plain names, without what training wrappers added."""
    plain: dict[str, Tensor] = {}
    for key, value in weights.items():
        name = str(key)
        for wrapper in _WRAPPERS:
            name = name.replace(wrapper, "")
        name = name.removeprefix("model.")
        if not isinstance(value, Tensor) or name in plain:
            raise UserError(
                f"{path} holds {key}, which is no tensor or comes twice: choose a checkpoint with "
                "the weights at the top or under generator_ema, generator or model"
            )
        plain[name] = value
    return plain


def _demand_match(found: dict[str, Tensor], wanted: dict[str, torch.Size], path: Path) -> None:
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
    parts = [f"{len(names)} {what} ({_some(names)})" for what, names in differences if names]
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


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
