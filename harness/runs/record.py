"""Builds the rows and traces of videos from measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.cache.integration import CacheSession
from harness.cache.traffic import Arithmetic, Traffic
from harness.models.preset import VideoModel
from harness.prompts.suite import pixel_frames
from harness.results.observation import PHASES, Observation, TracePoint
from harness.results.run import Item, Run
from harness.results.video_files import Frames, digest
from harness.runs.meter import Meter
from harness.system import machine
from harness.system.errors import cause_of, first_line, last_frame


@dataclass(frozen=True)
class CacheUsage:
    """Sizes of the caches after the last commit; the caches may have been freed since.

    Bytes are summed over guidance branches; num_frames is the mean over them.
    peak_bytes: sum of the branches' own peaks.
    arithmetic: work of all passes.
    """

    nominal_bytes: int
    stored_bytes: int
    peak_bytes: int
    scratch_bytes: int
    num_frames: float
    stored_bytes_by_branch: tuple[int, ...]
    arithmetic: Arithmetic
    traffic: Traffic

    @classmethod
    def of(cls, sessions: Sequence[CacheSession]) -> CacheUsage:
        """Read the sizes of all branches, before the caches are freed."""
        # `ledger` first, since it may raise the peaks that are read below.
        ledgers = [session.ledger() for session in sessions]
        by_branch = tuple(session.stored_bytes for session in sessions)
        return cls(
            nominal_bytes=sum(session.nominal_bytes for session in sessions),
            stored_bytes=sum(by_branch),
            peak_bytes=sum(session.peak_bytes for session in sessions),
            scratch_bytes=sum(ledger.get("scratch", 0) for ledger in ledgers),
            num_frames=sum(session.num_frames_held for session in sessions) / len(sessions),
            stored_bytes_by_branch=by_branch,
            arithmetic=sum((session.arithmetic for session in sessions), Arithmetic()),
            traffic=sum((session.traffic for session in sessions), Traffic()),
        )


@dataclass(frozen=True)
class Recorder:
    """Builds the rows of one run."""

    run: Run
    model: VideoModel
    weights: str
    backend: str
    integration: str
    device: torch.device
    memory_source: str

    def made(
        self, item: Item, meter: Meter, held: CacheUsage, frames: Frames, notes: Sequence[str] = ()
    ) -> Observation:
        """Return the row of a finished video; `notes` are added to those of the run."""
        frame = self.model.num_histories * self.model.spec.bf16_frame_bytes
        num_denoise = sum(each.phase == "denoise" for each in meter.passes)
        # Two references of a ratio: BF16 bytes of the frames still held, and of the whole video.
        # Layers and branches may hold different numbers of frames, so their mean may be broken.
        same, full = round(frame * held.num_frames), frame * self.run.suite.num_frames
        by_phase: dict[str, Any] = {f"{phase}_s": meter.seconds[phase] for phase in PHASES}
        by_phase |= {f"peak_{phase}_bytes": meter.peaks[phase] for phase in PHASES}
        return self.run.row(
            item,
            **self._setting(),
            notes="; ".join([*self.run.notes, *notes]) or None,
            num_pixel_frames=frames.shape[0],
            first_chunk_pixel_frames=min(
                pixel_frames(self.model.chunk_frames, self.model.first_pixel_frames),
                frames.shape[0],
            ),
            height=frames.shape[1],
            width=frames.shape[2],
            fps=self.model.fps,
            **by_phase,
            generate_s=sum(meter.seconds[phase] for phase in PHASES),
            chunk_s=meter.chunk_s,
            num_passes=meter.num_passes,
            num_commits=meter.num_passes - num_denoise,
            num_reused=meter.num_reused,
            # Over denoising passes alone: commit passes always run, whatever the policy.
            skip_ratio=meter.num_reused / num_denoise if num_denoise else None,
            # Of the passes that ran, as the cache counted them, and not of a plan.
            flops=self.model.flops(held.arithmetic),
            memory_source=self.memory_source,
            peak_bytes=largest(meter.peaks),
            peak_reserved_bytes=largest(meter.peak_reserved),
            kv_nominal_bytes=held.nominal_bytes,
            kv_stored_bytes=held.stored_bytes,
            kv_stored_bytes_by_branch=list(held.stored_bytes_by_branch),
            kv_peak_bytes=held.peak_bytes,
            kv_bf16_same_frames_bytes=same,
            kv_bf16_full_length_bytes=full,
            kv_ratio_same_frames=same / held.stored_bytes if held.stored_bytes else None,
            kv_ratio_full_length=full / held.stored_bytes if held.stored_bytes else None,
            kv_frames_held=held.num_frames,
            kv_encode_calls=held.traffic.encode_calls,
            kv_encode_bytes=held.traffic.encode_bytes,
            kv_decode_calls=held.traffic.decode_calls,
            kv_decode_bytes=held.traffic.decode_bytes,
            scratch_bytes=held.scratch_bytes,
            frames_sha256=digest(frames),
            # Relative to the folder, since results folders are moved and copied.
            video=str(self.run.video(item).relative_to(self.run.folder)),
        )

    def failed(self, item: Item, error: Exception) -> Observation:
        """Return the row of a video that could not be made."""
        # Measured columns stay null: a part of a video is no measurement.
        reason = f"{first_line(error)} ({last_frame(error)})"
        return self.run.row(item, **self._setting(), failure=cause_of(error), failure_reason=reason)

    def sampled(
        self, item: Item, chunk: int, time_s: float, held: dict[str, int]
    ) -> list[TracePoint]:
        """Return trace rows with the bytes of each component after the commit of a chunk."""
        key = (self.run.run_id, *item.key)
        # The commit of a chunk is the moment at which the history has its new size.
        return [
            TracePoint(*key, "chunk", "commit", chunk, time_s, name, size)
            for name, size in held.items()
        ]

    def peaks(self, item: Item, meter: Meter) -> list[TracePoint]:
        """Return trace rows with the components of each phase's peak."""
        key = (self.run.run_id, *item.key)
        return [
            TracePoint(*key, "peak", phase, None, None, name, size)
            for phase, ledger in meter.ledgers.items()
            for name, size in ledger.items()
        ]

    def passes(self, item: Item, meter: Meter) -> list[TracePoint]:
        """Return one trace row per pass, in order, with the decision of the reuse policy."""
        return [
            TracePoint(
                self.run.run_id,
                *item.key,
                moment="pass",
                phase=each.phase,
                chunk=each.chunk,
                time_s=each.time_s,
                step=each.step,
                branch=each.branch,
                reused=int(each.reused),
                drift=each.drift,
                accumulated_drift=each.accumulated,
                kv_age=each.kv_age,
                seconds=each.seconds,
            )
            for each in meter.passes
        ]

    def _setting(self) -> dict[str, Any]:
        """Return the columns that are the same in every row of this child."""
        # A failed video has them too: its cause may depend on backend or device.
        return {
            "attention_backend": self.backend,
            "integration": self.integration,
            "contract": self.model.contract,
            "preset": self.model.preset,
            "weights": self.weights,
            "device": machine.device_name(self.device),
            "torch_version": torch.__version__,
        }


def largest(peaks: Mapping[str, int]) -> int:
    """Return the largest peak of a video's phases, without `text`."""
    # The text encoder is freed before the first video starts.
    return max(peak for phase, peak in peaks.items() if phase != "text")
