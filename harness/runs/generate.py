"""First stage: make the videos of a run and measure how they were made."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
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
from harness.runs.record import Held, Recorder
from harness.runs.shared_text import Embeddings, Encoded, Keep
from harness.sampling.decoding import Reel, pixels
from harness.sampling.guidance import BRANCHES, Branch
from harness.sampling.network import TextKV
from harness.sampling.noise import SeededNoise
from harness.sampling.passes import Observer, Silent
from harness.sampling.sampler import Sampler
from harness.system import machine
from harness.system.errors import NotFinite, UserError
from harness.system.files import write_json
from harness.system.logs import log
from harness.system.progress import Progress


class Generator:
    """Builds a run's model and method once and makes its videos one after the other.

    What a video holds (history, cross-attention, latents) is local to `make` and gone before the
    next one starts, unless the integration keeps it on purpose.
    """

    def __init__(self, run: Run) -> None:
        """Build everything; ValueError or UserError before any video is made."""
        self.run = run
        self.device = machine.choose_device(run.execution.device)
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
        if self.device.type == "cpu" and run.execution.device == "auto" and named not in ("", "-1"):
            log.warning(
                f"CUDA_VISIBLE_DEVICES={named}, but torch finds no GPU that works: the "
                "videos are made on the CPU (run.device=cuda refuses this)"
            )
        parts = Parts.of(run)
        self.model, self.method, self.integration = parts.model, parts.method, parts.integration
        self.backend = self.integration.resolve(
            parts.attention, self.model.spec, self.method, self.device
        )
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
        self._previous: tuple[Tensor, ...] = ()
        self._weight_bytes = self.sampler.network.nbytes

    def encode(self, texts: Sequence[str]) -> None:
        """Find the rows of all prompts or make them, then free the encoder.

        It is larger than most networks, and loaded only if no earlier run left what it would make.
        """
        guidance = self.model.guidance
        prompts = list(dict.fromkeys([*texts, *([guidance.negative] if guidance else [])]))
        shared = Embeddings.of(self.run, self.model.text, self.device, self.memory)
        try:
            if shared is None:
                self._encode(prompts)
            else:
                shared.fill(self.texts, prompts, self._encode)
        finally:
            self.model.text.close()

    def text_rows(self, item: Item) -> Tensor:
        """The encoded prompt of a video [length, width]."""
        return self.texts[item.prompt.text][0]

    def text_kv(self, rows_TE: Tensor) -> list[TextKV]:
        """Cross-attention keys and values of each branch; rows are those of the prompt."""
        rows = [rows_TE]
        if self.model.guidance is not None:
            rows.append(self.texts[self.model.guidance.negative][0])
        return [self.model.text_kv(self.sampler, each) for each in rows]

    def notes(self, item: Item) -> list[str]:
        """Sentences that a reader of this video's row should know; usually none."""
        rows = self.text_rows(item)
        if not self.model.text.is_full(rows):
            return []
        return [f"the prompt fills the text encoder's {len(rows)} rows and may have been cut"]

    def session(self, num_frames: int) -> CacheSession:
        """An empty cache for a video."""
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
        """Two chunks that nobody measures: kernels, allocators and thread pools start here."""
        num_frames = min(2 * self.model.chunk_frames, self.run.suite.num_frames)
        noise = SeededNoise(0, self.model.latent_shape(num_frames))
        text_kv = self.text_kv(next(iter(self.texts.values()))[0])
        reel = Reel(self.model.decoder, Silent())
        branches = [Branch(self.session(num_frames), each) for each in text_kv]
        for latents in self._sample(branches, noise, num_frames, Silent(), reel):
            reel.latents.append(latents)
        reel.end(self.decode)
        self._previous = ()  # the first video has none before it

    def make(self, item: Item, meter: Meter) -> tuple[Frames, Held, list[TracePoint]]:
        """One video: its pixels, what the cache came to hold, and its trace."""
        rows, encoding = self.texts[item.prompt.text]
        if not are_finite(rows):
            raise NotFinite("the encoded prompt is not finite, before the first pass")
        meter.include(encoding)
        reel = Reel(self.model.decoder, meter)
        alive = Alive(reel)
        meter.components = lambda: self._resident() | alive.ledger()
        with meter.phase("text"):
            alive.text_kv = self.text_kv(rows)
        num_frames = self.run.suite.num_frames
        alive.sessions = [self.session(num_frames) for _ in alive.text_kv]
        branches = [Branch(*pair) for pair in zip(alive.sessions, alive.text_kv, strict=True)]
        noise = SeededNoise(item.seed, self.model.latent_shape(num_frames))
        if self._on(noise.video):
            alive.noise = noise.video
        trace: list[TracePoint] = []
        chunks = self._sample(branches, noise, num_frames, meter, reel)
        for chunk, latents in enumerate(chunks):
            reel.latents.append(latents)
            time_s = time.perf_counter() - meter.start
            in_use = {"in_use": self.memory.now()}
            trace += self.record.sampled(item, chunk, time_s, alive.history() | in_use)
        held = Held.of(alive.sessions)
        del branches, noise, chunks
        if self.integration.free_before_decode:
            alive.free()
        frames = reel.end(self.decode)
        trace += self.record.passes(item, meter) + self.record.peaks(item, meter)
        return frames, held, trace

    def _sample(
        self,
        branches: Sequence[Branch],
        noise: SeededNoise,
        num_frames: int,
        observer: Observer,
        reel: Reel,
    ) -> Iterator[Tensor]:
        """The finished latents of each chunk of a video."""
        cond, *others = branches
        uncond = others[0] if others else None
        return self.sampler.sample(
            cond.session, cond.text_kv, noise, num_frames, observer, reel, uncond
        )

    def decode(self, latents_FChw: Tensor) -> Frames:
        """Pixels on the host, as the integration decodes."""
        with torch.inference_mode():
            if self.integration.stream_decode:
                return np.concatenate(list(self.model.decoder.decode(latents_FChw)))
            video = self.model.decoder.decode_whole(latents_FChw)
        if self.integration.keep_previous:
            self._previous = (video, latents_FChw)
        return pixels(video)

    def _encode(self, prompts: Sequence[str], keep: Keep | None = None) -> None:
        """Encode prompts one by one; `keep` is given each at once."""
        self.model.text.to(self.device)
        for prompt in prompts:
            meter = Meter(self.device, self.memory)
            meter.components = self._resident
            with meter.phase("text"):
                rows = self.model.text.encode([prompt])[0].to(DTYPES[self.model.dtype])
            self.texts[prompt] = encoded = rows, meter
            if keep is not None:
                keep(prompt, encoded)

    def _on(self, tensor: Tensor) -> bool:
        """Whether a tensor lies on the device: on a CPU everything does."""
        return tensor.device.type == self.device.type

    def _resident(self) -> dict[str, int]:
        """Bytes on the device that outlive a video, by what they are."""
        parts = {
            "weights": self._weight_bytes,
            "decoder": self.model.decoder.nbytes,
            "prompts": sum(rows.nbytes for rows, _ in self.texts.values() if self._on(rows)),
            "previous_video": sum(tensor.nbytes for tensor in self._previous),
        }
        return {name: size for name, size in parts.items() if size}


@dataclass
class Alive:
    """What one video holds on the device."""

    reel: Reel
    text_kv: list[TextKV] = field(default_factory=list)
    sessions: list[CacheSession] = field(default_factory=list)
    noise: Tensor | None = None

    def ledger(self) -> dict[str, int]:
        """Bytes by what they are."""
        cross = sum(x.nbytes for layers in self.text_kv for pair in layers for x in pair)
        noise = self.noise.nbytes if self.noise is not None else 0
        parts = {"cross_attention": cross, "noise": noise, "latents": self.reel.nbytes}
        parts |= self.history()
        parts["decoder_features"] = self.reel.decoder_features
        return {name: size for name, size in parts.items() if size}

    def history(self) -> dict[str, int]:
        """Bytes of the caches by what they are; `cond.codes` where there are several branches."""
        if len(self.sessions) == 1:
            return self.sessions[0].ledger()
        named = zip(BRANCHES, self.sessions, strict=False)  # none yet, before the first pass
        return {
            f"{name}.{part}": size for name, each in named for part, size in each.ledger().items()
        }

    def free(self) -> None:
        """Let go of all but the reel."""
        self.text_kv, self.sessions, self.noise = [], [], None


def generate(run: Run, items: Sequence[Item], begins: Callable[[Key], None]) -> None:
    """Make videos of a run; one that fails is a row, and the others go on.

    A video's frames are on disk before its row, and its row before the next video starts. begins
    is called before each.
    """
    if not items:
        return
    generator = Generator(run)
    write_json(run.folder / ENVIRONMENT, machine.describe(generator.device))
    model = generator.model
    passes = model.loop.num_passes(model.schedule, run.suite.num_frames, model.chunk_frames)
    passes *= model.num_branches
    generator.encode([item.prompt.text for item in items])
    with suppress(Exception):  # the first video meets the same error, and its row says so
        generator.warm_up()
    rows = Rows(run.folder / observations.OBSERVATIONS)
    with Progress(run.method_name, len(items), passes) as progress:
        for item in items:
            begins(item.key)
            meter = Meter(generator.device, generator.memory, progress.tick)
            try:
                make_one(generator, item, meter, rows)
            except (UserError, OSError):  # of the folder, not of this video
                raise
            except Exception as error:  # noqa: BLE001  this video's row; the others go on
                rows.put(generator.record.failed(item, error))
                progress.failed(f"prompt {item.prompt.index}", error)
            else:
                progress.finished()


def make_one(generator: Generator, item: Item, meter: Meter, rows: Rows) -> None:
    """Make a video and leave its frames, its trace and, last, its row on disk."""
    run = generator.run
    frames, held, trace = generator.make(item, meter)
    for stale in run.video(item).parent.glob(f"{item.stem}.*"):
        stale.unlink()
    write_raw(run.video(item).with_suffix(".npy"), frames)
    write_trace(run.trace(item), trace)
    rows.put(generator.record.made(item, meter, held, frames, generator.notes(item)))
