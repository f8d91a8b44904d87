"""First stage: generates the videos of a run and measures time and memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.cache.integration import CacheSession
from harness.cache.numerics import are_finite
from harness.checks.parts import Parts
from harness.models.preset import DTYPES
from harness.results import observations
from harness.results.observation import TracePoint
from harness.results.observations import Rows, write_trace
from harness.results.run import ENVIRONMENT, Item, Run
from harness.results.scores import Key
from harness.results.video_files import Frames, write_raw
from harness.runs.meter import Meter, memory_of
from harness.runs.record import CacheUsage, Recorder
from harness.runs.shared_text import Embeddings, Encoded, Keep
from harness.sampling.decoding import LatentBuffer, pixels
from harness.sampling.guidance import Branch, Texts, branches_of
from harness.sampling.noise import SeededNoise
from harness.sampling.passes import NullObserver
from harness.sampling.sampler import Generation, Sampler
from harness.system import machine
from harness.system.errors import NotFinite, UserError
from harness.system.files import write_json
from harness.system.logs import log
from harness.system.progress import Progress


class Generator:
    """Builds a run's model and method once, and generates its videos one after the other.

    Tensors of a video (history, cross-attention, latents) are local to `make` and freed before the
    next video, unless the integration keeps them on purpose.
    """

    def __init__(self, run: Run) -> None:
        """Build model, method and sampler.

        Raises  ValueError, UserError: the parts do not fit, before any video is made.
        """
        self.run = run
        self.device = machine.choose_device(run.execution.device)
        # A torch without CUDA, or an old driver, would else show only in the seconds. It is no
        # error, since schedulers set the variable on machines without a GPU too.
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
        if self.device.type == "cpu" and run.execution.device == "auto" and named not in ("", "-1"):
            log.warning(
                f"CUDA_VISIBLE_DEVICES={named}, but torch finds no GPU that works: the "
                "videos are made on the CPU (run.device=cuda refuses this)"
            )
        # Parts that do not fit are refused here, before the weights are read.
        parts = Parts.of(run)
        self.model, self.method, self.integration = parts.model, parts.method, parts.integration
        self.backend = self.integration.resolve(
            parts.attention, self.model.spec, self.method, self.device
        )
        # Which passes are skipped is a choice of the method, not of the model.
        sampler = self.model.build(self.device, Path(run.data_dir))
        self.sampler: Sampler = replace(sampler, reuse=self.method.reuse)
        self.memory = memory_of(self.device)
        self.record = Recorder(
            run,
            self.model,
            weights=self.model.origin(Path(run.data_dir)),
            backend=self.backend.describe(self.device),
            integration=self.integration.name,
            device=self.device,
            memory_source=self.memory.source,
        )
        self.texts: dict[str, Encoded] = {}
        # Tensors of the last video, if the integration keeps them as the study's program did.
        self._previous: tuple[Tensor, ...] = ()
        # Summed once: weights do not change, and every phase of a video asks for this number.
        self._weight_bytes = self.sampler.network.nbytes

    def encode(self, texts: Sequence[str]) -> None:
        """Encode all prompts, or read the rows that earlier runs left, then free the encoder."""
        # The encoder is larger than most networks, so it is loaded only if a prompt is missing.
        # Videos share prompts: the samples of a prompt, and the negative prompt of guidance.
        negative = self.model.negative
        prompts = list(dict.fromkeys([*texts, *([] if negative is None else [negative])]))
        shared = Embeddings.of(self.run, self.model.text, self.device, self.memory)
        try:
            if shared is None:
                self._encode(prompts)
            else:
                shared.fill(self.texts, prompts, self._encode)
        finally:
            self.model.text.close()

    def text_rows(self, item: Item) -> list[Tensor]:
        """Return the encoded prompts of a video [length, width]."""
        return [self.texts[text][0] for text in item.prompt.texts]

    def texts_of(
        self, rows_TE: Tensor, num_frames: int, later: Mapping[int, Tensor] | None = None
    ) -> dict[str, Texts]:
        """Return what the guidance branches of a video read, by name.

        rows_TE: the encoded prompt. later: as in `VideoModel.texts`.
        """
        rows = {"prompt": rows_TE}
        if self.model.negative is not None:
            rows["negative"] = self.texts[self.model.negative][0]
        return self.model.texts(self.sampler, rows, num_frames, later=later)

    def branches(self, texts: Mapping[str, Texts], num_frames: int) -> tuple[Branch, ...]:
        """Return the guidance branches of a video, with empty caches."""
        return branches_of(self.model.roles, texts, lambda: self.session(num_frames))

    def notes(self, item: Item, meter: Meter) -> list[str]:
        """Return notes that apply to this video's row; usually none."""
        found: list[str] = []
        if self.run.suite.switches:
            frames = ", ".join(map(str, self.run.suite.switches))
            history = "computed again" if self.run.suite.recache else "kept"
            found.append(f"a new prompt begins at latent frames {frames}; the history is {history}")
        for rows in self.text_rows(item):
            if self.model.text.is_full(rows):
                found.append(
                    f"the prompt fills the text encoder's {len(rows)} rows and may have been cut"
                )
        if meter.locked:
            chunk, step = next(iter(meter.locked.items()))
            note = (
                f"{len(meter.locked)} chunks ran no pass to their end, chunk {chunk} from step "
                f"{step} on: the threshold locks them into reuse"
            )
            log.warning(f"{self.run.method_name}, {item.stem}: {note}; choose a smaller one")
            found.append(note)
        return found

    def session(self, num_frames: int) -> CacheSession:
        """Return an empty cache for a video of `num_frames` latent frames."""
        # The first history of a video is its longest, so a cache of this size serves all.
        num_held = self.model.loop.histories(num_frames)[0]
        return self.integration.session(
            self.model.spec,
            self.method,
            self.backend,
            num_held,
            self.device,
            self.sampler.network.positions(self.model.spec.grid),
        )

    def warm_up(self) -> None:
        """Generate two unmeasured chunks to warm up kernels, allocators and thread pools."""
        # Two chunks: only the second one reads a history. Prompt and noise do not matter: the
        # shapes alone decide which kernels are compiled and how much memory is taken.
        num_frames = min(2 * self.model.chunk_frames, self.run.suite.num_frames)
        noise = SeededNoise(0, self.model.latent_shape(num_frames))
        texts = self.texts_of(next(iter(self.texts.values()))[0], num_frames)
        branches = self.branches(texts, num_frames)
        buffer = LatentBuffer(self.model.decoder, NullObserver())
        video = Generation(branches, noise, num_frames, NullObserver(), buffer)
        for latents in self.sampler.run(video):
            buffer.latents.append(latents)
        buffer.end(self.decode)
        self._previous = ()  # the warm-up must not count as the video before the first

    def make(self, item: Item, meter: Meter) -> tuple[Frames, CacheUsage, list[TracePoint]]:
        """Generate one video; return its pixels, the cache's final sizes, and its trace.

        Raises  NotFinite: the encoded prompt, a key, a value or a latent is not finite.
        """
        rows = self.text_rows(item)
        # Checked here, or the first pass would be named as the origin of NaN from the encoder.
        if not are_finite(*rows):
            raise NotFinite("the encoded prompt is not finite, before the first pass")
        # The prompts were encoded before this video, or by another run. Each counts once: a video
        # with switches may come back to a prompt.
        for text in dict.fromkeys(item.prompt.texts):
            meter.include(self.texts[text][1])
        buffer = LatentBuffer(self.model.decoder, meter)
        live = LiveTensors(buffer)
        meter.components = lambda: self._resident() | live.ledger()
        suite = self.run.suite
        num_frames = suite.num_frames
        # Keys and values of cross-attention depend on the prompt alone: making them belongs to
        # `text`, and they are then held for the whole video.
        with meter.phase("text"):
            later = dict(zip(suite.switches, rows[1:], strict=True))
            live.texts = self.texts_of(rows[0], num_frames, later)
        branches = self.branches(live.texts, num_frames)
        live.sessions = {
            role.name: branch.session
            for role, branch in zip(self.model.roles, branches, strict=True)
            if role.cache != "none"  # it uses the session of another branch
        }
        noise = SeededNoise(item.seed, self.model.latent_shape(num_frames))
        # Noise is drawn on the host, so that a seed gives the same video on every device. On a GPU
        # it takes no memory that is measured.
        if self._on(noise.video):
            live.noise = noise.video
        trace: list[TracePoint] = []
        video = Generation(branches, noise, num_frames, meter, buffer, recached=suite.recached)
        chunks = self.sampler.run(video)
        # The sampler is a generator, so history and memory are read between two chunks.
        for chunk, latents in enumerate(chunks):
            buffer.latents.append(latents)
            time_s = time.perf_counter() - meter.start
            in_use = {"in_use": self.memory.now()}
            trace += self.record.sampled(item, chunk, time_s, live.history() | in_use)
        # Sizes are read, and references dropped, before decoding: the caches may be freed then,
        # so that history and decoder need not fit into memory together.
        held = CacheUsage.of(list(live.sessions.values()))
        del branches, noise, video, chunks
        if self.integration.free_before_decode:
            live.free()
        frames = buffer.end(self.decode)
        trace += self.record.passes(item, meter) + self.record.peaks(item, meter)
        return frames, held, trace

    def decode(self, latents_FChw: Tensor) -> Frames:
        """Decode latents [F, C, h, w] to pixels [T, H, W, 3] u8 on the host.

        The integration decides whether in parts or in one piece.
        """
        with torch.inference_mode():
            if self.integration.stream_decode:
                return np.concatenate(list(self.model.decoder.decode(latents_FChw)))
            video = self.model.decoder.decode_whole(latents_FChw)
        if self.integration.keep_previous:  # as the study's program did
            self._previous = (video, latents_FChw)
        return pixels(video)

    def _encode(self, prompts: Sequence[str], keep: Keep | None = None) -> None:
        """Encode prompts one by one; call `keep` after each."""
        self.model.text.to(self.device)
        for prompt in prompts:
            # One meter per prompt: runs that read these rows later report the same measurement.
            meter = Meter(self.device, self.memory)
            meter.components = self._resident
            with meter.phase("text"):
                rows = self.model.text.encode([prompt])[0].to(DTYPES[self.model.dtype])
            self.texts[prompt] = encoded = rows, meter
            if keep is not None:
                keep(prompt, encoded)

    def _on(self, tensor: Tensor) -> bool:
        """Whether a tensor is in the memory that is measured."""
        return tensor.device.type == self.device.type

    def _resident(self) -> dict[str, int]:
        """Return the bytes on the device that outlive a video, by component."""
        parts = {
            "weights": self._weight_bytes,
            "decoder": self.model.decoder.nbytes,
            "prompts": sum(rows.nbytes for rows, _ in self.texts.values() if self._on(rows)),
            "previous_video": sum(tensor.nbytes for tensor in self._previous),
        }
        return {name: size for name, size in parts.items() if size}


@dataclass
class LiveTensors:
    """The tensors that one video holds on the device."""

    buffer: LatentBuffer
    texts: Mapping[str, Texts] = field(default_factory=dict)
    sessions: dict[str, CacheSession] = field(default_factory=dict)  # by branch
    noise: Tensor | None = None

    def ledger(self) -> dict[str, int]:
        """Return the bytes by component."""
        cross = sum(each.nbytes for each in self.texts.values())
        noise = self.noise.nbytes if self.noise is not None else 0
        parts = {"cross_attention": cross, "noise": noise, "latents": self.buffer.nbytes}
        parts |= self.history()
        parts["decoder_features"] = self.buffer.decoder_features
        return {name: size for name, size in parts.items() if size}

    def history(self) -> dict[str, int]:
        """Return the bytes of the caches by component; `cond.codes` etc. with several branches."""
        # Without guidance the names have no prefix, so that traces of most models read plainly.
        if len(self.sessions) == 1:
            return next(iter(self.sessions.values())).ledger()
        return {
            f"{name}.{part}": size
            for name, each in self.sessions.items()
            for part, size in each.ledger().items()
        }

    def free(self) -> None:
        """Free everything except the latents that are still to be decoded."""
        self.texts, self.sessions, self.noise = {}, {}, None


def generate(run: Run, items: Sequence[Item], begins: Callable[[Key], None]) -> None:
    """Generate videos of a run; a video that fails gets a row with the cause.

    begins: called with the key of each video before it starts.
    Raises  UserError, OSError: the parts do not fit, or the run's folder cannot be written.
    """
    if not items:
        return
    generator = Generator(run)
    # Before the first video, so that it is there even if this process dies in one.
    write_json(run.folder / ENVIRONMENT, machine.describe(generator.device))
    model = generator.model
    # The progress bar counts passes of the network, since a video may take minutes.
    of_video = model.passes(run.suite.num_frames, run.suite.recached)
    passes = sum(len(model.roles_of(each)) for each in of_video)
    generator.encode([text for item in items for text in item.prompt.texts])
    with suppress(Exception):  # the first video fails with the same error and records it
        generator.warm_up()
    rows = Rows(run.folder / observations.OBSERVATIONS)
    with Progress(run.method_name, len(items), passes) as progress:
        for item in items:
            begins(item.key)
            meter = Meter(generator.device, generator.memory, progress.tick)
            try:
                make_one(generator, item, meter, rows)
            except (UserError, OSError):  # the folder is at fault, so the other videos fail too
                raise
            except Exception as error:  # noqa: BLE001  recorded in its row; the others go on
                rows.put(generator.record.failed(item, error))
                progress.failed(f"prompt {item.prompt.index}", error)
            else:
                progress.finished()


def make_one(generator: Generator, item: Item, meter: Meter, rows: Rows) -> None:
    """Generate a video and write its frames, its trace and its row."""
    run = generator.run
    frames, held, trace = generator.make(item, meter)
    # Outside all measured phases, since it is the harness that writes files and not the method.
    # Remove files of an earlier attempt: a lossless file would be read instead of the new frames.
    for stale in run.video(item).parent.glob(f"{item.stem}.*"):
        stale.unlink()
    write_raw(run.video(item).with_suffix(".npy"), frames)
    write_trace(run.trace(item), trace)
    # The row is written last: a row means that frames and trace are complete.
    rows.put(generator.record.made(item, meter, held, frames, generator.notes(item, meter)))
