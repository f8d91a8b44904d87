"""Reads files of weights: first names and shapes, then the tensors in batches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness.models.checkpoints.names import some
from harness.system.errors import UserError

# What torch, safetensors, pickle and json raise for files that are cut short or no such files.
TORN = (OSError, RuntimeError, ValueError, TypeError, EOFError, UnpicklingError, SafetensorError)
_BATCHES = 32  # a batch is at most this fraction of all bytes


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, without its values.

    keys: path of the tensor through the file's nested dicts.
    """

    file: Path
    keys: tuple[Any, ...]
    shape: tuple[int, ...]
    nbytes: int


def files_of(path: Path, source: str | None = None) -> list[Path]:
    """Return the files of a checkpoint: the file itself, or the shards of a folder.

    source: "owner/name path/in/repo", for the command in the error message.
    Raises  UserError: the path does not exist or is not a supported file.
    """
    if path.is_dir():
        return _shards(path)
    # The message has the whole command: presets name files that only the user may download.
    if not path.exists():
        get = ""
        if source:
            # `hf download` repeats the repository's own folders below --local-dir, so the folder is
            # named only if the path ends as the one in the repository.
            root = str(path).removesuffix(source.partition(" ")[2])
            place = f" --local-dir {root}" if root.endswith("/") else ""
            get = f"type `hf download {source}{place}` or "
        raise UserError(f"found no checkpoint at {path}: {get}set the model's path to where it is")
    if path.suffix not in (".pt", ".pth", ".safetensors"):
        raise UserError(f"{path} is no .pt, .pth, .safetensors file and no folder: choose another")
    return [path]


def is_complete(folder: Path) -> bool:
    """Return whether a folder has a config.json and all shards, without reading the shards."""
    # A list of models asks this of every preset, whose shards have gigabytes.
    try:
        return (folder / "config.json").is_file() and bool(files_of(folder))
    except UserError:
        return False


def contents(files: Sequence[Path]) -> dict[str, object]:
    """Merge the dicts of all files, with a `Stored` for every tensor, at most one dict deep.

    Raises  UserError: a file cannot be read, or two files contain the same name.
    """
    content: dict[str, object] = {}
    for file in files:
        part: dict[str, object] = {}
        if file.suffix == ".safetensors":
            part |= _header(file)
        else:
            for key, value in _mapped(file).items():
                if isinstance(value, Mapping):
                    inner = {str(k): _stored(v, file, (key, k)) for k, v in value.items()}
                    part[str(key)] = inner
                else:
                    part[str(key)] = _stored(value, file, (key,))
        # Shards of two models in one folder would else load as a mixture of both.
        twice = sorted(content.keys() & part.keys())
        if twice:
            raise UserError(f"{file.parent} holds {some(twice)} twice: keep one model's shards")
        content |= part
    return content


def batches(stored: Mapping[str, Stored]) -> Iterator[list[str]]:
    """Yield names grouped by file, in batches of limited size."""
    # Files are mapped again for each batch. A mapped page that was read counts as memory of the
    # process until its file is closed, and files are up to four times as large as the network.
    limit = sum(each.nbytes for each in stored.values()) / _BATCHES
    batch: list[str] = []
    taken = 0
    # By file, so that each is mapped as few times as possible.
    for name, each in sorted(stored.items(), key=lambda item: item[1].file):
        if batch and (taken + each.nbytes > limit or stored[batch[0]].file != each.file):
            yield batch
            batch, taken = [], 0
        batch.append(name)
        taken += each.nbytes
    if batch:
        yield batch


def take(stored: Sequence[Stored]) -> list[Tensor]:
    """Return the tensors, memory-mapped. Release them before the next call to limit memory.

    Raises  UserError: a file cannot be read.
    """
    found: dict[Stored, Tensor] = {}
    for file in {each.file for each in stored}:
        own = [each for each in stored if each.file == file]
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, framework="pt") as opened:
                    found |= {each: opened.get_tensor(each.keys[0]) for each in own}
            except TORN as error:
                raise _unreadable(file) from error
            continue
        # A torch file has its own structure: a tensor is reached as it was found.
        content = _mapped(file)
        for each in own:
            value: Any = content
            for key in each.keys:
                value = value[key]
            found[each] = value
    return [found[each] for each in stored]


def _stored(value: object, file: Path, keys: tuple[Any, ...]) -> object:
    """Return a `Stored` for a tensor, and any other value unchanged."""
    if not isinstance(value, Tensor):
        return value
    return Stored(file, keys, tuple(value.shape), value.nbytes)


def _mapped(file: Path) -> Mapping[Any, object]:
    """Return the dict of a torch file; its tensors stay on disk until they are used."""
    # weights_only: a pickle from elsewhere must not run code.
    try:
        return {**torch.load(file, map_location="cpu", weights_only=True, mmap=True)}
    except TORN as error:
        raise _unreadable(file) from error


def _header(file: Path) -> dict[str, Stored]:
    """Read the header of a safetensors file and compare its offsets with the file size.

    Source  the format: eight bytes of length, a JSON of names, shapes and offsets, the values.
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            size = file.stat().st_size
            if not 0 < length <= size - 8:
                raise ValueError("no header")
            header = json.loads(stream.read(length))
        # Free text about the file, which is no tensor.
        header.pop("__metadata__", None)
        # Offsets count from the end of the header. An interrupted download has a whole header.
        ends = {name: 8 + length + each["data_offsets"][1] for name, each in header.items()}
        torn = sorted((name for name in ends if ends[name] > size), key=lambda name: ends[name])
        stored = {
            name: Stored(
                file, (name,), tuple(x["shape"]), x["data_offsets"][1] - x["data_offsets"][0]
            )
            for name, x in header.items()
        }
    except (*TORN, LookupError, AttributeError) as error:
        raise _unreadable(file) from error
    if torn:
        raise UserError(
            f"{file} is truncated in {torn[0]}: it has {size} of {max(ends.values())} bytes, so "
            "download it again"
        )
    return stored


def _unreadable(file: Path) -> UserError:
    return UserError(
        f"cannot read {file}, which is truncated, corrupt or holds more than named tensors: "
        "compare its size with the hub's and download it again"
    )


def _shards(folder: Path) -> list[Path]:
    """Return the shards that the index names, or all shards if there is no index.

    Shards are .safetensors files; in a folder without them .bin files, as older encoders have.
    """
    # If a folder has both formats, they hold the same weights.
    is_old = any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors"))
    kind = "bin" if is_old else "safetensors"
    indices, shards = (sorted(folder.glob(f"*.{kind}{end}")) for end in (".index.json", ""))
    if len(indices) > 1 or not shards:
        raise UserError(
            f"{folder} holds {len(indices)} indices and {len(shards)} .{kind} files: choose a "
            "folder with the weights of one model (`transformer` in a diffusers folder)"
        )
    if not indices:
        return shards
    try:
        names = set(json.loads(indices[0].read_text())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{indices[0]} is no index of shards: download it again") from error
    # An interrupted download may have the index and not all shards.
    missing = sorted(names - {shard.name for shard in shards})
    if missing:
        raise UserError(f"{folder} lacks shards ({some(missing)}): download them again")
    return [shard for shard in shards if shard.name in names]
