"""Times PSNR and SSIM of clips as the second stage computes them, next to scikit-image.

The scorer hands clips to a pool of two threads, as `harness/scoring/score.py` does; each thread
computes both metrics of its clip. scikit-image runs frame by frame in the same process. Frames are
already in memory, so reading and packing them is not timed.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch

from harness.benchmarks.options import Options
from harness.benchmarks.report import Report, Row
from harness.benchmarks.timing import ROUNDS, Action, Wall, interleave, self_timed
from harness.scoring.metrics import psnr, ssim
from harness.scoring.metrics.metric import Clip, Frames
from harness.scoring.metrics.windows import Series

TITLE = "Scoring clips by PSNR and SSIM beside scikit-image"
PACKAGES = ("numpy", "scikit-image", "scipy")
THREADS = 2
FASTER, DIFFERENCE, PEAK_GIB = 2.0, 1e-5, 2.0  # bounds: at least, at most, at most
FPS, FIRST_CHUNK_FRAMES = 16, 9
MARGIN_PX = 64  # a texture exceeds the frames that move over it by this
METRICS = (psnr.Psnr(), ssim.Ssim())
WINDOWS = {metric.name: metric.window for metric in (ssim.Ssim(), ssim.SsimGaussian())}
GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
Pair = tuple[Clip, Clip]  # a video and its reference
OfFrames = Callable[[Frames, Frames], float]


@dataclass(frozen=True)
class Sizes:
    """Number of clips, and frames and pixels of each."""

    num_clips: int
    num_frames: int
    height: int
    width: int


FULL, QUICK = Sizes(20, 165, 480, 832), Sizes(4, 6, 48, 80)


def run(options: Options) -> int:
    """Measure a single frame on one thread, then all clips."""
    sizes = QUICK if options.quick else FULL
    with Report("scoring", TITLE, torch.device("cpu"), options, PACKAGES) as report:
        for row in chain(frame_rows(sizes), clip_rows(sizes)):
            report.add(row)
    return 0


def frame_rows(sizes: Sizes) -> Iterator[Row]:
    """Yield how many times faster each metric is, for one frame on one thread."""
    video, reference = make_clip(replace(sizes, num_frames=1), 0)
    frames = video.frames_THWC[0], reference.frames_THWC[0]
    theirs = scikit_image()
    for name, of_frames in own().items():
        cases = {"own": _once(of_frames, frames), "theirs": _once(theirs[name], frames)}
        times = interleave(cases, Wall(torch.device("cpu")), ROUNDS)
        own_ms, theirs_ms = (1e3 * times.of(case).middle for case in cases)
        yield Row.of(
            "scikit-image / own, one thread",
            f"{name} of a frame of {sizes.height}x{sizes.width}",
            times.ratio("theirs", "own"),
            "x",
            note=f"{theirs_ms:.4g} ms and {own_ms:.4g} ms",
        )


def clip_rows(sizes: Sizes) -> Iterator[Row]:
    """Yield how many times faster the scorer's threads are, and differences of values."""
    bench = Bench(sizes)
    cases = {"scorer": bench.scorer, "scikit-image": bench.scikit_image}
    # A round scores one clip per thread, so that few clips are in memory at a time.
    # No warm-up: it would score the clips of the first round twice.
    times = interleave(cases, self_timed, -(-sizes.num_clips // THREADS), warm_up=0)
    own_s, theirs_s = (sum(times.seconds[name]) for name in cases)
    # The cores tell whether two threads could run at once at all.
    cores = len(os.sched_getaffinity(0))
    yield Row.of(
        f"scikit-image / scorer, {THREADS} threads",
        f"{sizes.num_clips} clips of {sizes.num_frames} frames of {sizes.height}x{sizes.width}",
        times.ratio("scikit-image", "scorer"),
        "x",
        target=FASTER,
        at_least=True,
        note=f"in all {theirs_s:.4g} s and {own_s:.4g} s, {cores} cores; quartiles over pairs",
        more={"seconds": dict(times.seconds)},
    )
    for name, unit in (("ssim", ""), ("psnr", "dB")):
        worst, num_frames = bench.difference(name)
        case = f"{name}, any of {num_frames} frames"
        yield Row("largest difference", case, worst, unit, target=DIFFERENCE)
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux gives KiB
    yield Row("peak memory", "of the process", peak_gib, "GiB", target=PEAK_GIB)


class Bench:
    """Scores the same clips in both ways, a few per round."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self._own: dict[str, list[Series]] = {"psnr": [], "ssim": []}
        self._theirs: dict[str, list[Series]] = {"psnr": [], "ssim": []}
        self._number, self._clips = -1, list[Pair]()  # the round whose clips are in memory

    def scorer(self, number: int) -> float:
        """Return the seconds that the scorer's threads take for the clips of one round."""

        def measure(pair: Pair) -> None:
            for metric in METRICS:
                metric.measure(*pair, "cpu")

        # Clips are made before the clock starts.
        clips = self._clips_of(number)
        start = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(measure, clips))
        seconds = time.perf_counter() - start
        # Per-frame values serve `difference` only, so they are computed outside the timed part.
        for video, reference in clips:
            frames = video.frames_THWC, reference.frames_THWC
            self._own["psnr"].append(psnr.per_frame(*frames))
            self._own["ssim"].append(ssim.per_frame(*frames, WINDOWS["ssim"]))
        return seconds

    def scikit_image(self, number: int) -> float:
        """Return the seconds of the same clips by scikit-image, frame by frame."""

        clips, metrics = self._clips_of(number), scikit_image()
        start = time.perf_counter()
        for video, reference in clips:
            for name, values in self._theirs.items():
                frames = zip(video.frames_THWC, reference.frames_THWC, strict=True)
                values.append(np.array([metrics[name](v, r) for v, r in frames]))
        return time.perf_counter() - start

    def difference(self, name: str) -> tuple[float, int]:
        """Return the largest difference of any frame in all rounds, and the number of frames."""
        own, theirs = np.concatenate(self._own[name]), np.concatenate(self._theirs[name])
        return float(np.abs(own - theirs).max()), len(own)

    def _clips_of(self, number: int) -> list[Pair]:
        """Return the clips of a round; both sides get the same ones."""
        if number != self._number:
            # Freed before more are generated: the bench is to stay below 2 GiB.
            self._clips.clear()
            first = number * THREADS
            count = min(THREADS, self.sizes.num_clips - first)
            self._clips.extend(make_clip(self.sizes, first + i) for i in range(count))
            self._number = number
        return self._clips


def own() -> dict[str, OfFrames]:
    """Return our metrics of one frame."""
    return {
        "psnr": lambda v, r: float(psnr.per_frame(v[None], r[None])[0]),
        **{name: window.mean for name, window in WINDOWS.items()},
    }


def scikit_image() -> dict[str, OfFrames]:
    """Return the same metrics by scikit-image."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    def similarity(**how: object) -> OfFrames:
        return lambda v, r: structural_similarity(r, v, channel_axis=-1, data_range=255, **how)

    return {
        "psnr": lambda v, r: peak_signal_noise_ratio(r, v, data_range=255),
        "ssim": similarity(),
        "ssim_gaussian": similarity(**GAUSSIAN),
    }


def make_clip(sizes: Sizes, seed: int) -> Pair:
    """Generate a clip: a soft texture that moves under changing light, with noise in each frame.

    Its number is its seed.
    The video has twice the noise of its reference and moves a pixel further every 40 frames, as a
    video of a quantized cache drifts away from BF16's.
    """
    random = np.random.default_rng(seed)
    height, width = sizes.height, sizes.width
    # Waves in random directions, short ones faint; light and dark saturate when frames are clipped.
    # SSIM is hardest to compute in flat and in saturated parts, where variances nearly cancel.
    high, wide = height + MARGIN_PX, width + MARGIN_PX
    y, x = np.mgrid[:high, :wide]
    waves = np.full((high, wide, 3), 120.0)
    for amplitude in (60, 40, 25, 15):
        for c in range(3):
            turn_y, turn_x = random.normal(0, 4 / amplitude, 2)
            waves[..., c] += amplitude * np.sin(turn_y * y + turn_x * x + random.uniform(0, 6))
    texture = waves.astype(np.int16)
    # New noise for each frame would take most of the time; shifted windows of one field serve.
    grain = random.normal(0, 4, texture.shape).astype(np.int16)
    shape = (sizes.num_frames, height, width, 3)
    video, reference = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    for t in range(sizes.num_frames):
        light = round(10 * np.sin(0.1 * t))
        for frames, pan, level in ((reference, t, 1), (video, t + t // 40, 2)):
            down, across = random.integers(0, MARGIN_PX, 2)
            noise = grain[down : down + height, across : across + width]
            at = pan % MARGIN_PX
            seen = texture[at // 2 : at // 2 + height, at : at + width]
            frames[t] = (seen + light + level * noise).clip(0, 255)
    return Clip(video, FPS, FIRST_CHUNK_FRAMES), Clip(reference, FPS, FIRST_CHUNK_FRAMES)


def _once(of_frames: OfFrames, frames: tuple[Frames, Frames]) -> Action:
    """Return an action: one metric of one frame."""
    return lambda _: of_frames(*frames)
