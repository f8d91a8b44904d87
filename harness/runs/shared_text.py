"""Encoded prompts on disk: the first run encodes a prompt, all later runs read it.

The rows of a prompt lie in `<results>/.text/<id>/<SHA-256 of the prompt>.safetensors`. The id
covers the encoder and the kind of machine, so a run reads exactly the bits that it would compute
itself. A file appears only when it is complete; a damaged one is replaced.

The file also holds time and memory of encoding. A video's `text_s` and `peak_text_bytes` are
therefore those of the run that encoded its prompt, even if the video belongs to another run.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from harness.models.preset import TextEncoder
from harness.results.run import Run
from harness.runs.meter import Memory, Meter
from harness.system import machine
from harness.system.files import locked, sha256, whole_file, writing
from harness.system.logs import log

FOLDER = ".text"  # in the results folder, next to the suites
FORMAT = 2  # of `measured`; part of the id, so files of another format are not read

MEASURED = ("seconds", "peaks", "peak_reserved", "ledgers")  # attributes of a meter that are kept

Encoded = tuple[Tensor, Meter]  # rows [length, width], and time and memory of encoding them
Keep = Callable[[str, Encoded], None]


@runtime_checkable
class HasWeights(Protocol):
    """A text encoder with weights to load, so that its rows are worth sharing.

    Encoders without weights lack this method: encoding again costs less than reading, and their
    rows depend on code that the digest of one file does not cover.
    """

    def origin(self) -> str | None:
        """Return what decides the rows in addition to the settings; None: do not share them.

        Paths are not part of it.
        """


@dataclass(frozen=True)
class Embeddings:
    """The rows of one encoder on one kind of machine, on disk.

    encoder: digest of everything that decides the rows; its first eight digits name the folder.
    """

    folder: Path
    encoder: str
    device: torch.device
    memory: Memory

    @classmethod
    def of(
        cls, run: Run, encoder: TextEncoder, device: torch.device, memory: Memory
    ) -> Embeddings | None:
        """Return the shared rows of a run's encoder; None if they are not worth sharing.

        Raises  UserError: the encoder's files are missing.
        """
        origin = encoder.origin() if isinstance(encoder, HasWeights) else None
        if origin is None:
            return None
        # A changed encoder gives other rows, so the id covers the source files of its class and of
        # its base classes.
        classes = [each for each in type(encoder).__mro__ if each.__module__ != "builtins"]
        code = {
            f"{each.__module__}.{each.__qualname__}": sha256(Path(inspect.getfile(each)))
            for each in classes
        }
        identity = {
            "settings": run.model["text"],
            "origin": origin,
            "code": code,
            "dtype": run.model["dtype"],
            "format": FORMAT,
            # Kernels of other devices and versions round differently. The source of memory is here
            # for the peaks, which are stored beside the rows.
            "machine": [machine.device_name(device), memory.source, torch.__version__],
        }
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        folder = Path(run.results_dir) / FOLDER / digest[:8]
        return cls(folder, digest, device, memory)

    def fill(
        self,
        texts: dict[str, Encoded],
        prompts: Sequence[str],
        encode: Callable[[Sequence[str], Keep], None],
    ) -> None:
        """Add the rows of all prompts to `texts`: read them, or call `encode` and keep the result.

        Only one process encodes at a time; others wait and then read its files. Prompts that a
        killed process had finished are read too.

        Raises  UserError: prompts have to be encoded and the folder cannot be written.
        """
        # Most runs find everything here and need no lock.
        texts |= self._found(prompts)
        if all(prompt in texts for prompt in prompts):
            return
        with writing("encoded prompts", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / ".lock").touch()
        with locked(self.folder, f"waiting for another run that encodes into {self.folder}"):
            # Look again: another process may have encoded them while this one waited.
            texts |= self._found([prompt for prompt in prompts if prompt not in texts])
            missing = [prompt for prompt in prompts if prompt not in texts]
            if missing:
                encode(missing, self._keep)

    def _found(self, prompts: Sequence[str]) -> dict[str, Encoded]:
        read = {prompt: self._read(prompt) for prompt in prompts}
        return {prompt: encoded for prompt, encoded in read.items() if encoded is not None}

    def _read(self, prompt: str) -> Encoded | None:
        """Read the rows of a prompt; None if the file is missing or damaged."""
        try:
            with safe_open(self._path(prompt), framework="pt") as file:
                found: dict[str, str] = file.metadata() or {}
                rows = file.get_tensor("rows").clone()  # else the tensor keeps the file mapped
        except (OSError, SafetensorError):
            return None
        measured = found.get("measured", "")
        # The digest covers metadata and rows, so any damage, or another prompt, is detected.
        if found != self._about(prompt, rows, measured):
            return None
        # Updated, not replaced: the meter's own dictionaries supply a zero for a missing phase.
        meter = Meter(self.device, self.memory)
        for name, values in json.loads(measured).items():
            getattr(meter, name).update(values)
        return rows, meter

    def _keep(self, prompt: str, encoded: Encoded) -> None:
        """Write the rows of a prompt atomically and durably."""
        rows, meter = encoded
        path = self._path(prompt)
        if path.exists():  # `_read` refused it
            log.warning(f"{path} is damaged and made anew")
        measured = json.dumps({name: getattr(meter, name) for name in MEASURED})
        content = save({"rows": rows.contiguous()}, self._about(prompt, rows, measured))
        with whole_file(path) as unfinished:
            unfinished.write_bytes(content)

    def _path(self, prompt: str) -> Path:
        # By digest: a prompt may be longer than a file name may be, and contain slashes.
        return self.folder / f"{hashlib.sha256(prompt.encode()).hexdigest()}.safetensors"

    def _about(self, prompt: str, rows: Tensor, measured: str) -> dict[str, str]:
        """Return the metadata of a file, with a digest over metadata and rows."""
        about = {"encoder": self.encoder, "prompt": prompt, "measured": measured}
        digest = hashlib.sha256(json.dumps([about, [*rows.shape], str(rows.dtype)]).encode())
        # As bytes, because NumPy has no BF16.
        digest.update(rows.contiguous().view(torch.uint8).numpy().data)
        return {**about, "sha256": digest.hexdigest()}
