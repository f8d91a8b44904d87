"""Collects facts about every model from its preset, for `ls models`."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from harness.config.compose import choices, composing, described
from harness.config.messages import construction_message
from harness.downloads import weights
from harness.downloads.data_folder import data_folder
from harness.models.preset import VideoModel
from harness.prompts.suite import SuiteConfig, latent_frames
from harness.system.errors import UserError
from harness.system.units import GIB

SECONDS = 10
HEAD = (
    "model", "weights", f"{SECONDS} s GiB", "held GiB", "window", "sink", "chunk", "steps",
    "shift", "ema", "positions", "keys",
)  # fmt: skip


@runtime_checkable
class Lacks(Protocol):
    """A part of a model that reads files."""

    # Checked at run time: parts without files, a user's own among them, need not have the method.

    def missing(self) -> list[Path]:
        """Return the files and folders that it needs and that do not exist."""


@dataclass(frozen=True)
class Entry:
    """A model and the state of its files. missing: paths that the loaders will not find."""

    name: str
    model: VideoModel
    missing: tuple[Path, ...]
    notes: tuple[str, ...]

    @property
    def state(self) -> str:
        """The state of its weights, as text."""
        if self.model.weights == "bundled":
            return "ship with it"
        if self.model.weights != "checkpoint":
            return self.model.weights
        return f"{len(self.missing)} missing" if self.missing else "there"


def entries(data_dir: str | None, folder: Path | None) -> Iterator[Entry]:
    """Yield all models, a user's own included.

    folder: the folder given with `--config-dir`.
    Raises  UserError, HydraException, ...: a file cannot be read or built.
    """
    root = data_folder(data_dir)[0]
    files = choices("model", folder)
    # Read once: every model looks its licences up here.
    known = tuple(weights.entries(folder).values())
    with composing(folder) as composer:
        for name, file in files.items():
            # Without what no model refers to: a composition then takes half the time.
            config = composer.resolved([f"model={name}", "metrics=[]", "~track"])
            try:
                model: VideoModel = instantiate(config["model"])
            except InstantiationException as error:
                raise UserError(f"model {name}: {construction_message(error)}") from error
            # The same paths that the loaders use, so that `ls` and a run agree.
            missing = tuple(_missing(model, root))
            notes = (described(file), *_origin(model, known))
            if missing:
                listed = ", ".join(map(str, missing))
                place = f" data_dir={shlex.quote(data_dir)}" if data_dir else ""
                notes += (
                    f"missing: {listed}: type python -m harness fetch weights model={name}{place}",
                )
            yield Entry(name, model, missing, tuple(filter(None, notes)))


def cells(entry: Entry) -> tuple[str, ...]:
    """Return a row of the table, in the order of HEAD.

    The two columns in GiB are keys and values in BF16, of a whole video and of the window.
    """
    model = entry.model
    length = SuiteConfig(file="prompts.txt", seconds=SECONDS)  # only its length is used
    num_frames = latent_frames(length, model.chunk_frames, model.fps, model.first_pixel_frames)
    held = min(model.window or num_frames, num_frames)
    full, kept = (
        f"{frames * model.spec.bf16_frame_bytes / GIB:.4g}" for frames in (num_frames, held)
    )
    return (
        entry.name, entry.state, full, kept, str(model.window or "full"), str(model.sink),
        str(model.chunk_frames), model.schedule.steps_text, f"{model.schedule.shift:g}",
        "yes" if model.ema else "no", model.positions, model.keys,
    )  # fmt: skip


def _missing(model: VideoModel, root: Path) -> Iterator[Path]:
    """Yield the missing files of weights, adapter, text encoder and decoder."""
    if model.weights == "checkpoint":
        adapter = model.adapter(root)
        for path in (model.path(root), *([adapter.path] if adapter else [])):
            if not path.exists():
                yield path
    for part in (model.text, model.decoder):
        # Located first: the paths in a preset are relative to the data folder.
        part.locate(root)
        if isinstance(part, Lacks):
            yield from part.missing()


def _origin(model: VideoModel, known: Iterable[weights.Entry]) -> Iterator[str]:
    """Yield the source and licence of weights and adapter; `known`: entries of `conf/weights`."""
    if model.weights != "checkpoint":
        return
    for file, source in ((model.checkpoint, model.source), (model.lora, model.lora_source)):
        own = {entry.licence for entry in known if f"{weights.FOLDER}/{entry.path}" == file}
        if file is not None:
            yield f"{source or file}; licence: {'; '.join(sorted(own)) or 'not described'}"
