"""Encoded prompts that runs share: made by the run that comes first, read by all the others.

The rows of a prompt are a file, `<results>/.text/<id>/<SHA-256 of the prompt>.safetensors`. The id
is that of the encoder and of the kind of machine that it runs on, so what a run reads is what it
would have made itself, bit for bit. A file appears when it is whole, and is made anew if it is
damaged later on.

Beside the rows lies what making them took. A video's `text_s` and `peak_text_bytes` are therefore
those of the run that really encoded its prompt, whichever run the video belongs to.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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

FOLDER = ".text"  # below the results, beside the suites
FORMAT = 2  # of `measured`: files of another one are not read

Encoded = tuple[Tensor, Meter]  # rows [length, width] and what making them took
Keep = Callable[[str, Encoded], None]


@runtime_checkable
class Weighty(Protocol):
    """A text encoder whose rows are worth sharing: it has weights to load and says which.

    Encoders without weights have no such method. Encoding again costs them less than reading, and
    what they make follows from code that no digest of one file covers.
    """

    def origin(self) -> str | None:
        """What decides the rows besides the settings, wherever it lies; None: share nothing."""


@dataclass(frozen=True)
class Embeddings:
    """The rows that one encoder makes on one kind of machine, on disk.

    `encoder` is a digest of everything that decides them; the folder has its first eight digits.
    """

    folder: Path
    encoder: str
    device: torch.device
    memory: Memory

    @classmethod
    def of(
        cls, run: Run, encoder: TextEncoder, device: torch.device, memory: Memory
    ) -> Embeddings | None:
        """Those of a run's encoder; None if they are not worth sharing.

        Raises  UserError: the encoder's files are missing.
        """
        origin = encoder.origin() if isinstance(encoder, Weighty) else None
        if origin is None:
            return None
        identity = {
            "settings": run.model["text"],
            "origin": origin,
            "code": _code(encoder),
            "dtype": run.model["dtype"],
            "format": FORMAT,
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
        """Put the rows of all prompts into `texts`: read them, or have `encode` make and keep them.

        Only one process encodes at a time; another waits and then finds what was made. What a
        process kept before it died is found as well.

        Raises  UserError: rows have to be made and the folder cannot be written.
        """
        texts |= self._found(prompts)
        if all(prompt in texts for prompt in prompts):
            return
        with self._alone():
            texts |= self._found([prompt for prompt in prompts if prompt not in texts])
            missing = [prompt for prompt in prompts if prompt not in texts]
            if missing:
                encode(missing, self._keep)

    def _found(self, prompts: Sequence[str]) -> dict[str, Encoded]:
        read = {prompt: self._read(prompt) for prompt in prompts}
        return {prompt: encoded for prompt, encoded in read.items() if encoded is not None}

    def _read(self, prompt: str) -> Encoded | None:
        """The rows of a prompt; None unless every byte is as it was written."""
        try:
            with safe_open(self._path(prompt), framework="pt") as file:
                found: dict[str, str] = file.metadata() or {}
                rows = file.get_tensor("rows").clone()  # nothing may hang on the mapped file
        except (OSError, SafetensorError):
            return None
        measured = found.get("measured", "")
        if found != self._about(prompt, rows, measured):
            return None
        return rows, self._meter(measured)

    def _keep(self, prompt: str, encoded: Encoded) -> None:
        """Write the rows of a prompt whole and durably."""
        rows, meter = encoded
        path = self._path(prompt)
        if path.exists():  # or it would have been read
            log.warning(f"{path} is damaged and made anew")
        content = save({"rows": rows.contiguous()}, self._about(prompt, rows, _measured(meter)))
        with whole_file(path) as unfinished:
            unfinished.write_bytes(content)

    def _path(self, prompt: str) -> Path:
        return self.folder / f"{hashlib.sha256(prompt.encode()).hexdigest()}.safetensors"

    def _about(self, prompt: str, rows: Tensor, measured: str) -> dict[str, str]:
        """What a file says besides its rows, with the digest that holds it all together."""
        about = {"encoder": self.encoder, "prompt": prompt, "measured": measured}
        digest = hashlib.sha256(json.dumps([about, [*rows.shape], str(rows.dtype)]).encode())
        digest.update(rows.contiguous().view(torch.uint8).numpy().data)
        return {**about, "sha256": digest.hexdigest()}

    def _meter(self, measured: str) -> Meter:
        """The meter that `measured` was written from."""
        values = json.loads(measured)
        meter = Meter(self.device, self.memory)
        meter.seconds.update(values["seconds"])
        meter.peaks.update(values["peaks"])
        meter.peak_reserved.update(values["peak_reserved"])
        meter.ledgers.update(values["ledgers"])
        return meter

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with writing("encoded prompts", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / ".lock").touch()
        with locked(self.folder, f"waiting for another run that encodes into {self.folder}"):
            yield


def _measured(meter: Meter) -> str:
    return json.dumps(
        {
            "seconds": meter.seconds,
            "peaks": meter.peaks,
            "peak_reserved": meter.peak_reserved,
            "ledgers": meter.ledgers,
        }
    )


def _code(encoder: TextEncoder) -> dict[str, str]:
    """Digests of the files in which an encoder and the classes it is made from are written."""
    classes = [each for each in type(encoder).__mro__ if each.__module__ != "builtins"]
    files = {f"{each.__module__}.{each.__qualname__}": inspect.getfile(each) for each in classes}
    return {name: sha256(Path(file)) for name, file in files.items()}
