"""Checks of a model: files, tensors, text encoder, decoder, and one small pass."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from harness.api import Exact, Method
from harness.cache.attention.portable import Portable
from harness.cache.session import Session
from harness.checks.tiny_network import CPU
from harness.checks.verdict import Verdict, verdict
from harness.config.weight_readers import read_by
from harness.downloads import weights
from harness.downloads.data_folder import data_folder
from harness.downloads.weights import Entry
from harness.models.checkpoints.load import matched
from harness.models.preset import DTYPES, VideoModel
from harness.sampling.decoding import Codec
from harness.sampling.sampler import Sampler
from harness.system.errors import UserError
from harness.system.typed import build
from harness.system.units import size
from methods.retention.keep import KeepAll

SMALL = (4, 4)  # latent height and width of the small pass: four tokens per frame
# Exact, so that a value that is not finite comes from the weights and not from a quantizer.
BF16 = Method(key=Exact(), value=Exact(), retention=KeepAll())


@runtime_checkable
class Examines(Protocol):
    """A text encoder that can check its files without loading them."""

    def examine(self) -> str:
        """Check packages and files; return a description of them."""


@dataclass(frozen=True)
class ModelSubject:
    """A model under test: its name, resolved configuration, and data folder."""

    name: str
    config: Mapping[str, Any]
    data_dir: str | None

    @cached_property
    def folder(self) -> Path:
        """The data folder."""
        return data_folder(self.data_dir)[0]

    @cached_property
    def model(self) -> VideoModel:
        """The built preset; its text encoder and decoder have located their files."""
        model: VideoModel = build("model", self.config)
        model.text.locate(self.folder)
        model.decoder.locate(self.folder)
        return model

    @property
    def entries(self) -> list[Entry]:
        """Entries of `conf/weights` that this model reads, at the places where it reads them."""
        asked = read_by(self.config, weights.entries().values(), self.folder)
        model = self.model
        found = [getattr(part, "folder", None) for part in (model.text, model.decoder)]
        if model.weights == "checkpoint":
            adapter = model.adapter(self.folder)
            found += [model.path(self.folder), adapter.path if adapter is not None else None]
        places = {str(n): str(each) for n, each in enumerate(found) if each is not None}
        # Parts that read from the hub's cache have another place, so they drop out here: their
        # files need not be in the data folder.
        return read_by(places, asked, self.folder)


def it_can_be_built(subject: ModelSubject) -> str:
    """The configuration builds a preset. Note: its sizes."""
    return subject.model.preset


def its_described_files_are_right(subject: ModelSubject) -> str | None:
    """The files described in `conf/weights` are there, with the right size and checksum."""
    # Other models read no checkpoint; what ships with the package is not described there.
    if subject.model.weights != "checkpoint":
        return None
    # All problems at once, since one command fetches everything.
    problems, right = [], 0
    for entry in subject.entries:
        looks = [weights.look(file, subject.data_dir) for file in entry.files]
        missing = sum(each.state == "missing" for each in looks)
        problems += [f"{entry.name} lacks {missing} of {len(looks)} files"] if missing else []
        problems += [each.wrong for each in looks if each.state == "wrong"]
        right += sum(each.state == "there" for each in looks)
    if problems:
        place = f" data_dir={shlex.quote(subject.data_dir)}" if subject.data_dir else ""
        raise UserError(
            f"{', '.join(problems)}: type python -m harness fetch weights model={subject.name}"
            f"{place}, which says sizes and licences first"
        )
    return f"{right} files" if right else "conf/weights describes none of its files"


def its_weights_have_the_tensors(subject: ModelSubject) -> str:
    """Checkpoint and adapter have exactly the network's tensors, by name and shape."""
    model = subject.model
    if model.weights in ("seeded", "random"):
        return f"weights={model.weights}: no file"
    # On the meta device, shapes take no memory: the network may not fit into RAM.
    with torch.device("meta"):
        network = model.dims.network(model.fps)
    stored = matched(network, model.path(subject.folder), ema=model.ema, source=model.source)
    made = sum(math.prod(x.shape) for x in stored.values()) * DTYPES[model.dtype].itemsize
    note = f"{len(stored)} tensors, {size(made)} as {model.dtype}, ema={model.ema}"
    adapter = model.adapter(subject.folder)
    if adapter is not None:
        shapes = {name: tuple(x.shape) for name, x in network.state_dict().items()}
        note += f"; LoRA of {len(adapter.read(shapes).factors)} tensors, scale {adapter.scale:g}"
    return note


def its_weights_have_a_checksum(subject: ModelSubject) -> str:
    """Every byte of the weights can be read and hashed. Note: the text that rows record."""
    return subject.model.origin(subject.folder)


def its_prompts_can_be_encoded(subject: ModelSubject) -> str:
    """The text encoder's packages and files are there and fit."""
    # A large encoder checks its files without loading them; a small one encodes a prompt.
    text = subject.model.text
    if isinstance(text, Examines):
        return text.examine()
    rows = text.encode(["a red ball rolls to the right"])
    text.close()
    _demand_finite(rows, "text rows")
    return f"rows {[*rows.shape[1:]]}"


def its_latents_can_be_decoded(subject: ModelSubject) -> str:
    """Two small latent frames can be decoded, and a picture encoded if the decoder can do that."""
    model = subject.model
    generator = torch.Generator().manual_seed(0)
    # Two frames: the first one may give fewer pixel frames than the others.
    latents = torch.randn(2, model.dims.latent_channels, *SMALL, generator=generator)
    frames = [frame.shape for frame in model.decoder.decode(latents)]
    num_frames, (_, height, width, _) = sum(shape[0] for shape in frames), frames[0]
    note = f"{num_frames} pixel frames of {height}x{width}"
    if isinstance(model.decoder, Codec):
        with torch.inference_mode():
            again = model.decoder.encode(torch.zeros(1, 3, height, width))
        _demand_finite(again, "an encoded picture")
        note += f", one encoded as latents {[*again.shape]}"
    model.decoder.close()
    return note


def a_small_pass_is_finite(subject: ModelSubject) -> str:
    """The loaded weights predict finite flows for two tiny chunks, the second with history."""
    model = subject.model
    # The weights do not depend on the size of a frame, so the smallest frames test them all.
    small = replace(model, latent_size=SMALL)
    network = small.build(CPU, subject.folder).network
    sampler = Sampler(network, model.schedule, model.chunk_frames)
    frames = 2 * model.chunk_frames
    # `portable` runs on every machine, and needs no compilation.
    session = Session(replace(model.spec, grid=small.spec.grid), BF16, Portable(), frames, CPU)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1, 8, model.dims.text_dim, generator=generator) * 0.1
    x = torch.randn(1, frames, model.dims.latent_channels, *SMALL, generator=generator)
    x = x.to(network.dtype)
    with torch.inference_mode():
        text_kv = network.text_kv(rows.to(x.dtype))
        for start in (0, model.chunk_frames):
            chunk = range(start, start + model.chunk_frames)
            # Time 0, as in a commit pass.
            t = torch.zeros(1, model.chunk_frames)
            noisy = x[:, chunk.start : chunk.stop]
            flow = sampler.flow(noisy, t, text_kv, session, chunk, "history")
            _demand_finite(flow, "the flow")
    return f"flow of standard deviation {flow.float().std():.2f} on noise"


# Missing files and tensors are found before gigabytes are hashed and loaded.
CONTRACTS: tuple[Callable[[ModelSubject], str | None], ...] = (
    it_can_be_built,
    its_described_files_are_right,
    its_weights_have_the_tensors,
    its_weights_have_a_checksum,
    its_prompts_can_be_encoded,
    its_latents_can_be_decoded,
    a_small_pass_is_finite,
)
NEED_WEIGHTS = (its_weights_have_a_checksum, a_small_pass_is_finite)


def verdicts(
    subject: ModelSubject, begins: Callable[[str], None] = lambda contract: None
) -> Iterator[Verdict]:
    """Yield the verdict of each contract; skip those that depend on a broken one.

    begins: called with the name of each contract before it starts.
    """
    broken: set[Callable[[ModelSubject], str | None]] = set()
    for contract in CONTRACTS:
        # These would only repeat that the weights cannot be read.
        if its_weights_have_the_tensors in broken and contract in NEED_WEIGHTS:
            continue
        found = verdict(contract, subject, begins)
        yield found
        if not found.held:
            broken.add(contract)
        if it_can_be_built in broken:
            return


def _demand_finite(x: Tensor, what: str) -> None:
    """Raise UserError if values are not finite, or all zero, as damaged weights give them."""
    if not x.isfinite().all() or not x.any():
        raise UserError(
            f"{what} is zero or not finite: the weights are damaged or of another model, so "
            "download them again"
        )
