"""First stage: make the videos of a run and measure how they were made."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor

from harness import env, store
from harness.api import Method
from harness.attention import BACKEND
from harness.cache import Session
from harness.errors import UserError, first_line, last_frame
from harness.files import write_json
from harness.measure import PHASES, Meter, memory_of
from harness.models.model import DTYPES, VideoModel
from harness.progress import Progress
from harness.run import Item, Run
from harness.sampler import Sampler, SeededNoise
from harness.store import Observation, Rows, TracePoint, write_trace
from harness.video import Frames, write_raw


class Silent:
    """An observer that watches nothing: for the warm-up."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Surrounds a pass."""
        yield


class Generator:
    """Builds a run's model and method once and makes its videos one after the other."""

    def __init__(self, run: Run) -> None:
        """Build everything; ValueError or UserError before any video is made."""
        self.run = run
        self.device = env.choose_device(run.device)
        self.method: Method = instantiate(run.method)
        self.model: VideoModel = instantiate(run.model)
        self.method.check(self.model.spec)
        self.sampler: Sampler = self.model.build(self.device, Path(run.data_dir))
        self.weights = self.model.origin(Path(run.data_dir))
        self.memory = memory_of(self.device)
        self.texts: dict[str, tuple[Tensor, Meter]] = {}

    def encode(self, texts: Sequence[str]) -> None:
        """Encode all prompts, then free the encoder: it is larger than most networks."""
        self.model.text.to(self.device)
        for text in texts:
            meter = Meter(self.device, self.memory)
            with meter.phase("text"):
                rows = self.model.text.encode([text])[0].to(DTYPES[self.model.dtype])
            self.texts[text] = rows, meter
        self.model.text.close()

    def text_rows(self, item: Item) -> Tensor:
        """The encoded prompt of a video [length, width]."""
        return self.texts[item.prompt.text][0]

    def warm_up(self) -> None:
        """Two chunks that nobody measures: kernels, allocators and thread pools start here."""
        num_frames = min(2 * self.model.chunk_frames, self.run.suite.num_frames)
        noise = SeededNoise(0, self.model.latent_shape(num_frames))
        text_kv = self.model.text_kv(self.sampler, next(iter(self.texts.values()))[0])
        session = Session(self.model.spec, self.method, self.device)
        chunks = self.sampler.sample(session, text_kv, noise, num_frames, Silent())
        self.decode(torch.cat(list(chunks), dim=1))

    def make(self, item: Item, meter: Meter) -> tuple[Frames, Session, list[TracePoint]]:
        """One video: its pixels, the cache as the last commit left it, and its trace."""
        rows, encoding = self.texts[item.prompt.text]
        meter.include(encoding)
        with meter.phase("text"):
            text_kv = self.model.text_kv(self.sampler, rows)
        num_frames = self.run.suite.num_frames
        noise = SeededNoise(item.seed, self.model.latent_shape(num_frames))
        session = Session(self.model.spec, self.method, self.device)
        latents, trace = [], []
        for chunk in self.sampler.sample(session, text_kv, noise, num_frames, meter):
            latents.append(chunk)
            moment = time.perf_counter() - meter.start
            trace += [
                TracePoint(self.run.run_id, *item.key, len(latents) - 1, moment, name, size)
                for name, size in session.ledger().items()
            ]
        with meter.phase("decode"):
            frames = self.decode(torch.cat(latents, dim=1))
        return frames, session, trace

    def decode(self, latents_BFChw: Tensor) -> Frames:
        """Pixels of the first sample; frames leave the device as they come."""
        with torch.inference_mode():
            return np.concatenate(list(self.model.decoder.decode(latents_BFChw[0])))

    def observe(self, item: Item, meter: Meter, session: Session, frames: Frames) -> Observation:
        """The row of a finished video."""
        same, full = self._bf16_bytes(session)
        stored = session.stored_bytes
        by_phase: dict[str, Any] = {f"{phase}_s": meter.seconds[phase] for phase in PHASES}
        by_phase |= {f"peak_{phase}_bytes": meter.peaks[phase] for phase in PHASES}
        return Observation(
            **self._identity(item),
            num_pixel_frames=frames.shape[0],
            height=frames.shape[1],
            width=frames.shape[2],
            fps=self.model.fps,
            **by_phase,
            generate_s=sum(meter.seconds[phase] for phase in PHASES),
            num_passes=meter.num_passes,
            memory_source=self.memory.source,
            peak_bytes=max(peak for phase, peak in meter.peaks.items() if phase != "text"),
            peak_reserved_bytes=meter.peak_reserved,
            kv_nominal_bytes=session.nominal_bytes,
            kv_stored_bytes=stored,
            kv_peak_bytes=session.peak_bytes,
            kv_bf16_same_frames_bytes=same,
            kv_bf16_full_length_bytes=full,
            kv_ratio_same_frames=same / stored if stored else None,
            kv_ratio_full_length=full / stored if stored else None,
            kv_frames_held=session.num_frames_held,
            attention_backend=BACKEND,
            video=str(self.run.video(item).relative_to(self.run.folder)),
        )

    def failed(self, item: Item, error: Exception) -> Observation:
        """The row of a video that could not be made."""
        oom = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        cause = "oom" if oom else "error"
        reason = f"{first_line(error)} ({last_frame(error)})"
        return Observation(**self._identity(item), failure=cause, failure_reason=reason)

    def _identity(self, item: Item) -> dict[str, Any]:
        return {
            "run_id": self.run.run_id,
            "suite": self.run.suite.name,
            "model": self.run.model_name,
            "method": self.run.method_name,
            "settings": self.run.settings,
            "prompt_index": item.prompt.index,
            "sample": item.sample,
            "seed": item.seed,
            "prompt": item.prompt.text,
            "prompt_source": self.run.suite.source,
            "num_latent_frames": self.run.suite.num_frames,
            "preset": self.model.preset,
            "weights": self.weights,
            "device": env.device_name(self.device),
            "torch_version": torch.__version__,
        }

    def _bf16_bytes(self, session: Session) -> tuple[int, int]:
        """BF16 bytes of the frames still held, and of the whole video."""
        frame = self.model.spec.bf16_frame_bytes
        return round(frame * session.num_frames_held), frame * self.run.suite.num_frames


def generate(run: Run) -> int:
    """Make every missing video of a run; returns how many failed.

    A video's frames are on disk before its row, and its row before the next video starts.
    """
    items = run.missing()
    if not items:
        return 0
    generator = Generator(run)
    passes = generator.model.schedule.num_passes(
        run.suite.num_frames // generator.model.chunk_frames
    )
    generator.encode([item.prompt.text for item in items])
    with suppress(Exception):  # the first video meets the same error, and its row says so
        generator.warm_up()
    rows = Rows(run.folder / store.OBSERVATIONS, Observation)
    num_failed = 0
    with Progress(run.method_name, len(items), passes) as progress:
        for item in items:
            meter = Meter(generator.device, generator.memory, progress.tick)
            try:
                make_one(generator, item, meter, rows)
            except (UserError, OSError):  # of the folder, not of this video
                raise
            except Exception as error:  # noqa: BLE001  this video's row; the others go on
                num_failed += 1
                rows.put(generator.failed(item, error))
                progress.failed(item, error)
            else:
                progress.finished(item)
    if not run.missing():
        write_manifest(run, generator.device)
    return num_failed


def make_one(generator: Generator, item: Item, meter: Meter, rows: Rows[Observation]) -> None:
    """Make a video and leave its frames, its trace and, last, its row on disk."""
    run = generator.run
    frames, session, trace = generator.make(item, meter)
    for stale in run.video(item).parent.glob(f"{item.stem}.*"):
        stale.unlink()
    write_raw(run.video(item).with_suffix(".npy"), frames)
    write_trace(run.trace(item), trace)
    rows.put(generator.observe(item, meter, session, frames))


def write_manifest(run: Run, device: torch.device) -> None:
    """`run.json`, written last: all videos asked for are there."""
    write_json(
        run.folder / "run.json",
        {
            "run_id": run.run_id,
            "state": "done",
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "suite": {"name": run.suite.name, "source": run.suite.source, "seed": run.seed}
            | {"sha256": run.suite.sha256, "num_latent_frames": run.suite.num_frames},
            "num_videos": len(store.made(run.folder)),
            "model": {"name": run.model_name, **run.model},
            "method": {"name": run.method_name, **run.method},
            "schema_version": store.SCHEMA_VERSION,
            "environment": env.describe(device),
        },
    )
