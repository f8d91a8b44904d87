"""VBench's dimensions, computed by the official package in a separate process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from harness.downloads import weights
from harness.results.scores import Column, Value
from harness.scoring.metrics.metric import Clip, Metric, Unscorable
from harness.scoring.metrics.windows import WINDOWS, Quantity, summarise
from harness.scoring.vbench import client, environment
from harness.scoring.vbench.clip_to_clip import CLIP_TO_CLIP, mapped, read_table
from harness.scoring.vbench.clips import CUTTINGS, protocol, spans
from harness.scoring.vbench.dimensions import DIMENSIONS
from harness.system.errors import UserError

# More motion makes a different video, not a better one.
NO_BETTER = "dynamic_degree"


class Dimension(Metric):
    """One dimension as the package defines it, of a whole video or averaged over its clips.

    dimension: name of the dimension.
    python: an interpreter with vbench; null uses that of `make vbench`.
    data_dir: data folder with the weights.
    clips: how videos are cut, a name of `CUTTINGS`.

    Raises  UserError: an unknown dimension or cutting.
    """

    # One child process serves all dimensions, so that torch is imported and weights are held once.
    one_at_a_time = True

    def __init__(
        self,
        dimension: str,
        python: str | None = None,
        data_dir: str | None = None,
        clips: str = "above_10s",
    ) -> None:
        if dimension not in DIMENSIONS:
            known = ", ".join(DIMENSIONS)
            raise UserError(f"VBench has no dimension {dimension}: choose among {known}")
        if clips not in CUTTINGS:
            known = ", ".join(CUTTINGS)
            raise UserError(f"metrics.vbench_{dimension}.clips={clips}: choose among {known}")
        self.name = f"vbench_{dimension}"
        self._dimension = DIMENSIONS[dimension]
        self._cutting = CUTTINGS[clips]
        self._clip_s = self._cutting.clip_s or self._dimension.clip_s
        self._python = environment.interpreter(python)
        self._data_dir = data_dir

    def columns(self) -> tuple[Column, ...]:
        """Return the columns: the value on 0..1, the package's raw value, and the protocol."""
        value = Column(self.name, self._dimension.meaning, "", self._better())
        return (value, *self._beside())

    def version(self) -> str:
        """Describe the packages, the encoding of frames, and the clips."""
        packages = environment.said(self._python, self._dimension.packages)
        clips = self._cutting.describe(self._dimension.clip_s)
        return f"{packages}; every frame, lossless; {clips}"

    def missing(self) -> str | None:
        """Return the reason if the interpreter, a package or weights are missing, else None."""
        # The environment first: without it no file of weights helps.
        return environment.missing(self._python, self._dimension.packages) or weights.missing(
            self._dimension.weights, self._data_dir
        )

    def weights(self) -> dict[str, str]:
        """Return the SHA-256 of the weights of this dimension, by name."""
        return client.digests(self._dimension.weights, self._data_dir)

    def measure(self, clip: Clip, reference: Clip | None, device: str) -> Mapping[str, Value]:
        """Return the values of `columns`."""
        # Clip by clip: the package's own `compute_<dimension>` gets a list of one video.
        pieces = self._pieces(clip)
        return self._row([self._ask(clip, piece, device).value for piece in pieces])

    def close(self) -> None:
        """End the process that all dimensions share; the next `measure` starts a new one."""
        self._runner().close()

    def _pieces(self, clip: Clip) -> list[tuple[int, int]]:
        """Return the spans of frames that the package scores one by one."""
        longest_s = self._cutting.longest_whole_s
        return spans(len(clip.frames_THWC), clip.fps, self._clip_s, longest_s)

    def _beside(self) -> tuple[Column, Column]:
        """Return the columns of the raw value and the protocol."""
        scale = f", on 0..{self._dimension.full_scale:g} as the package gives it"
        return (
            Column(f"{self.name}_raw", self._dimension.meaning + scale, "", self._better()),
            Column(f"{self.name}_protocol", "whole, or the mean of clips", kind=str),
        )

    def _better(self) -> Literal["higher"] | None:
        return None if self._dimension.name == NO_BETTER else "higher"

    def _row(self, values: list[float]) -> dict[str, Value]:
        """Return the values of the columns from those of the clips."""
        raw = client.mean(values)
        return {
            self.name: raw / self._dimension.full_scale,
            f"{self.name}_raw": raw,
            f"{self.name}_protocol": protocol(len(values), self._clip_s),
        }

    def _ask(self, clip: Clip, piece: tuple[int, int], device: str) -> client.Reply:
        """Return the package's reply for a span of frames."""
        least, sides = self._dimension.smallest_px, clip.frames_THWC.shape[1:3]
        if min(sides) < least:
            raise Unscorable(
                f"vbench.{self._dimension.name} needs {least} pixels a side, these are "
                f"{sides[0]}x{sides[1]}: its network gives NaN, which the package takes for a value"
            )
        runner = self._runner()
        path = runner.stage.lossless(clip.frames_THWC, clip.fps, piece)
        return runner.ask(self._dimension, path, clip.prompt, device)

    def _runner(self) -> client.Runner:
        return client.runner(self._python, self._data_dir)


class Consistency(Dimension):
    """Subject or background consistency, inside clips and, if asked for, between them.

    A video of one clip has no part between clips.

    clip_to_clip: `none`, the release's default, or `percentiles`, its `--dev_flag`.

    Source  VBench-Long (`vbench2_beta_long`), features `dino` and `clip`. The release's tables were
            made with its default features, DINOv2 and DreamSim.
    Raises  UserError: a dimension without such a part, or an unknown word.
    """

    def __init__(
        self,
        dimension: str,
        python: str | None = None,
        data_dir: str | None = None,
        clips: str = "above_10s",
        clip_to_clip: str = "none",
    ) -> None:
        super().__init__(dimension, python, data_dir, clips)
        if dimension not in CLIP_TO_CLIP:
            known = ", ".join(CLIP_TO_CLIP)
            raise UserError(f"{dimension} has no part between clips: choose among {known}")
        if clip_to_clip not in ("none", "percentiles"):
            raise UserError(
                f"metrics.{self.name}.clip_to_clip={clip_to_clip}: choose none or percentiles"
            )
        self._between = CLIP_TO_CLIP[dimension] if clip_to_clip == "percentiles" else None

    def columns(self) -> tuple[Column, ...]:
        """Return the columns of `Dimension`, and with two parts those of each."""
        if self._between is None:
            return super().columns()
        parts = {
            "in_clips": "mean of the clips",
            "between_clips": "of the first frames of the clips",
            "between_clips_mapped": "the same by VBench-Long's table",
        }
        return (
            *super().columns(),
            *(
                Column(f"{self.name}_{part}", f"{self._dimension.meaning}; {said}", "", "higher")
                for part, said in parts.items()
            ),
        )

    def version(self) -> str:
        """Describe the version of `Dimension` and the part between clips."""
        # Unchanged without that part, so that its scores stay valid.
        if self._between is None:
            return super().version()
        share = f"{self._between.weight:g} of it between clips by {self._between.network}"
        return f"{super().version()}; {share} and percentiles"

    def missing(self) -> str | None:
        """Return the reason if something of `Dimension`, or the table, is missing, else None."""
        return super().missing() or weights.missing(self._tables(), self._data_dir)

    def weights(self) -> dict[str, str]:
        """Return the SHA-256 of the weights and of the table, by name."""
        return super().weights() | client.digests(self._tables(), self._data_dir)

    def measure(self, clip: Clip, reference: Clip | None, device: str) -> Mapping[str, Value]:
        """Return the values of `columns`; of a single clip those of the parts are missing."""
        row, pieces = super().measure(clip, reference, device), self._pieces(clip)
        if self._between is None or len(pieces) == 1:
            return row
        starts = [start for start, _ in pieces]
        # The first frames of the clips, as a video of their own: inside a video the package
        # compares every frame with the one before and with the first.
        first = replace(clip, frames_THWC=clip.frames_THWC[starts])
        between = self._ask(first, (0, len(starts)), device).value
        # VBench-Long's table of percentiles brings it to the scale of the mean of the clips, with
        # which it is weighted.
        onto = mapped(between, read_table(weights.path(self._between.table, self._data_dir)))
        inside = row[self.name]
        assert isinstance(inside, float)
        fused = (1 - self._between.weight) * inside + self._between.weight * onto
        return {
            self.name: fused,
            f"{self.name}_raw": fused,
            f"{self.name}_protocol": f"{row[f'{self.name}_protocol']}_and_between",
            f"{self.name}_in_clips": inside,
            f"{self.name}_between_clips": between,
            f"{self.name}_between_clips_mapped": onto,
        }

    def _tables(self) -> list[str]:
        """Return the name of the table in `conf/weights`, if it is used."""
        return [] if self._between is None else [self._between.table]


class ImagingQuality(Dimension):
    """MUSIQ's quality of frames, of the whole video and by windows, which show its drift."""

    def __init__(
        self, python: str | None = None, data_dir: str | None = None, clips: str = "above_10s"
    ) -> None:
        """Store the settings; see `Dimension`."""
        super().__init__("imaging_quality", python, data_dir, clips)
        self._quantity = Quantity(self.name, self._dimension.meaning, "higher")

    def version(self) -> str:
        """Describe the version of `Dimension` and the windows."""
        return f"{super().version()}; {WINDOWS}"

    def columns(self) -> tuple[Column, ...]:
        """Return the columns of the value on 0..1 by windows, then those of `Dimension`."""
        return (*self._quantity.columns(), *self._beside())

    def measure(self, clip: Clip, reference: Clip | None, device: str) -> Mapping[str, Value]:
        """Return the values of `columns`.

        The value of the whole video is that of the package, or the mean over its clips.
        """
        num_frames = len(clip.frames_THWC)
        pieces = self._pieces(clip)
        replies = [self._ask(clip, piece, device) for piece in pieces]
        # The spans cover every frame; one that stayed NaN would make the video unscorable.
        per_frame_T = np.full(num_frames, np.nan)
        for (start, stop), reply in zip(pieces, replies, strict=True):
            if len(reply.frames) != stop - start:
                raise Unscorable(
                    f"vbench.imaging_quality scored {len(reply.frames)} of {stop - start} frames"
                )
            per_frame_T[start:stop] = reply.frames
        # Where both name the whole video, the value of the package counts: it comes last.
        by_window = self._quantity.row(summarise(per_frame_T / self._dimension.full_scale, clip))
        return {**by_window, **self._row([reply.value for reply in replies])}
