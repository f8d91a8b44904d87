"""The published study's drift: imaging quality of growing prefixes of an encoded video."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from harness.results.scores import Column, Value
from harness.scoring.metrics.metric import Clip, Unscorable
from harness.scoring.metrics.vbench import Dimension
from harness.scoring.vbench import environment, staging

# The study's points lie 50 frames apart.
STEP_FRAMES = 50


class DriftPublished(Dimension):
    """VBench's imaging quality of the first 50, 100, 150, ... frames and of all frames.

    It exists for comparison with the study; the drift is `vbench_imaging_quality_slope_per_s`. The
    study encoded its H.264 files a second time; here the frames are encoded once.

    Source  the study's drift curves: points of 50, 100 and 150 of 165 frames on StoryEval, the
            whole video on MovieGen.
    """

    # A mean over a prefix is a quality and not a rate, and late losses hardly change it.
    def __init__(self, python: str | None = None, data_dir: str | None = None) -> None:
        """Store the settings; see `Dimension`."""
        super().__init__("imaging_quality", python, data_dir)
        self.name = "drift_published"

    def columns(self) -> tuple[Column, ...]:
        """Return the columns of the last point and of all points."""
        meaning = "MUSIQ's quality on 0..1, H.264 at crf 23"
        return (
            Column(self.name, f"{meaning}, the whole video", "", "higher"),
            Column(
                f"{self.name}_points",
                f"{meaning}, the first {STEP_FRAMES}, {2 * STEP_FRAMES}, ... frames and all",
                "",
                "higher",
                list[float],
            ),
        )

    def version(self) -> str:
        """Describe the packages and the encoding of the prefixes."""
        codec, pix_fmt, options = staging.STUDY
        packages = environment.said(self._python, self._dimension.packages)
        encoded = f"{codec} crf {options['crf']} {pix_fmt}"
        return f"{packages}; beginnings every {STEP_FRAMES} frames and the whole, {encoded}"

    def measure(self, clip: Clip, reference: Clip | None, device: str) -> Mapping[str, Value]:
        """Return the values of `columns`."""
        height, width = clip.frames_THWC.shape[1:3]
        if height % 2 or width % 2:
            raise Unscorable(f"the study's 4:2:0 needs even sides, these are {height}x{width}")
        # Not through `_ask`, which would stage the frames losslessly.
        points, runner = [], self._runner()
        for num_frames in prefixes(len(clip.frames_THWC)):
            # The study measured encoded files, so each prefix is encoded as the study did.
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "beginning.mp4")
                staging.write(path, clip.frames_THWC[:num_frames], clip.fps, staging.STUDY)
                value = runner.ask(self._dimension, path, clip.prompt, device).value
            points.append(value / self._dimension.full_scale)
        return {self.name: points[-1], f"{self.name}_points": points}


def prefixes(num_frames: int) -> list[int]:
    """Return the lengths of the prefixes in frames; the last one is the whole video."""
    return [*range(STEP_FRAMES, num_frames, STEP_FRAMES), num_frames]
