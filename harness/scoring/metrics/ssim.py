"""Structural similarity to the BF16 video of the same prompt and seed, 1 for identical frames.

Both windows follow scikit-image's definitions and are several times as fast (docs/benchmarks). They
agree to 1e-6 by the bounds below; measured, to 2e-7 on flat frames and 2e-8 on others. The four
filtered maps are chosen so that cancellation is exact: in flat or saturated parts of a frame,
variances are small differences of large numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.results.scores import Column, Value
from harness.scoring.metrics.metric import Clip, Frames, Metric, Unscorable, check_pair
from harness.scoring.metrics.windows import WINDOWS, Quantity, Series, summarise

C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # the paper's constants for values of 0..255
# Both windows are those of scikit-image: its default side, and Wang's sigma with a Gaussian that is
# cut off at 3.5 sigma, rounded to whole pixels.
BOX_PX = 7
SIGMA_PX, RADIUS_PX = 1.5, 5
# Size of a band of rows, measured at 480x832. Smaller bands are many short calls, between which
# threads wait for the interpreter. Larger ones exceed the cache, and each call maps new memory.
BOX_BAND_VALUES = 2**18
# A tile is a product with a 24x34 matrix; a larger tile would multiply more zeros.
GAUSSIAN_TILE_PX = 24


@dataclass(frozen=True)
class Window:
    """The window of local means, variances and covariances.

    said: the definition, for versions of scores.
    mean: function that returns the SSIM of two frames [H, W, C] u8, averaged over channels and over
    the pixels whose window lies inside the frame.
    """

    side_px: int
    said: str
    mean: Callable[[Frames, Frames], float]


class Ssim(Metric):
    """SSIM of each frame with a uniform window, as in the published study.

    Source  Wang et al. 2004, with scikit-image's defaults.
    """

    name = "ssim"
    against_reference = True

    @property
    def window(self) -> Window:
        """Return the window, which is the part in which definitions differ."""
        said = f"uniform {BOX_PX}x{BOX_PX} window, sample covariance"
        return Window(BOX_PX, said, uniform_mean)

    @property
    def quantity(self) -> Quantity:
        """Return the description of the columns."""
        return Quantity(self.name, f"SSIM, {self.window.said.partition(',')[0]}", "higher")

    def columns(self) -> tuple[Column, ...]:
        """Return the columns by windows of time."""
        return self.quantity.columns()

    def version(self) -> str:
        """Describe the definition; no package affects it."""
        how = f"mean of channels, {WINDOWS}"
        return f"{self.window.said}, 8-bit RGB, every frame, {how}"

    def measure(self, clip: Clip, reference: Clip | None, device: str) -> Mapping[str, Value]:
        """Return the values of `columns`."""
        ssim_T = per_frame(*check_pair(clip, reference), self.window)
        return self.quantity.row(summarise(ssim_T, clip))


class SsimGaussian(Ssim):
    """SSIM of each frame with the paper's Gaussian window.

    Source  Wang et al. 2004, as scikit-image computes it with `gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False`.
    """

    name = "ssim_gaussian"

    @property
    def window(self) -> Window:
        """Return the Gaussian window of 11x11 pixels."""
        side_px = 2 * RADIUS_PX + 1
        said = f"Gaussian {side_px}x{side_px} window of sigma {SIGMA_PX:g}, population covariance"
        return Window(side_px, said, gaussian_mean)


def per_frame(video_THWC: Frames, reference_THWC: Frames, window: Window) -> Series:
    """Return the SSIM of each frame.

    Shapes  both [T, H, W, 3] u8 -> [T] f64.
    Raises  Unscorable: frames smaller than the window.
    """
    height, width = video_THWC.shape[1:3]
    if min(height, width) < window.side_px:
        side = f"{window.side_px}x{window.side_px}"
        raise Unscorable(f"SSIM needs frames of {side} pixels or more, these have {height}x{width}")
    pairs = zip(video_THWC, reference_THWC, strict=True)
    return np.array([window.mean(v, r) for v, r in pairs], dtype=np.float64)


def bands(num_rows: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield spans [start, stop) of nearly equal length, none longer than `length`."""
    # Of nearly equal length, so that no short band is left for the end.
    num_bands = -(-num_rows // length)
    edges = [num_rows * i // num_bands for i in range(num_bands + 1)]
    return itertools.pairwise(edges)


# The uniform window: sums of integers, exact in 32 bits.


def uniform_mean(video_HWC: Frames, reference_HWC: Frames) -> float:
    """Return the SSIM of a frame with a uniform 7x7 window and sample covariance."""
    # Pixels whose window would leave the frame do not count, as in scikit-image.
    height, width, channels = video_HWC.shape
    inside_HW = height - BOX_PX + 1, width - BOX_PX + 1
    total = 0.0
    for start, stop in bands(inside_HW[0], max(1, BOX_BAND_VALUES // (width * channels))):
        # Bands overlap by six rows, which the windows of the last row of pixels need.
        rows = slice(start, stop + BOX_PX - 1)
        total += _uniform_sum(video_HWC[rows], reference_HWC[rows])
    return float(total / (inside_HW[0] * inside_HW[1] * channels))


def _uniform_sum(video_HWC: Frames, reference_HWC: Frames) -> float:
    """Return the sum of SSIM over the pixels of a band whose window lies inside it."""
    # Let a, b be the sums of x and y over a window of n = 49 values, and d = x - y. Then
    # n²(μx² + μy²) = 2ab + (a - b)² and n²(σx² + σy²) = 2 n²σxy + n Σd² - (a - b)². So each factor
    # of the denominator equals its counterpart in the numerator plus a term >= 0. All terms are
    # integers below 2^28. Only their final ratio is in float32, with an error below 1e-6 per pixel.
    height, width, channels = video_HWC.shape
    n, row = BOX_PX**2, width * channels
    x, y = (frame.astype(np.uint16).ravel() for frame in (video_HWC, reference_HWC))
    d = x - y
    d *= d  # wraps modulo 2^16; the square of the difference is below 2^16, so this is exact
    # Products of bytes fit into 16 bits; their sums do not.
    sum_xy = _box((x * y).astype(np.int32), row, channels)
    sum_dd = _box(d.astype(np.int32), row, channels)
    a, b = (_box(values, row, channels).astype(np.int32) for values in (x, y))
    # Results are written over their operands: fresh memory costs more than the arithmetic.
    ab = a * b
    apart = np.square(np.subtract(a, b, out=a), out=a)
    covariance = np.subtract(np.multiply(sum_xy, n, out=sum_xy), ab, out=sum_xy)
    unlike = np.subtract(np.multiply(sum_dd, n, out=sum_dd), apart, out=sum_dd)

    # All terms are halved. Sample covariance is n / (n - 1) times population covariance; the factor
    # is moved into C2.
    luminance = ab.astype(np.float32)
    luminance += C1 * n**2 / 2
    contrast = covariance.astype(np.float32)
    contrast += C2 * n * (n - 1) / 2
    below = apart.astype(np.float32)
    below *= 0.5
    below += luminance
    below_contrast = unlike.astype(np.float32)
    below_contrast *= 0.5
    below_contrast += contrast
    below *= below_contrast
    luminance *= contrast
    # The last row of `below` ends with its last whole window; the missing values are dropped with
    # those of windows that cross the end of a row.
    ssim = np.empty((height - BOX_PX + 1) * row, np.float32)
    np.divide(luminance, below, out=ssim[: len(below)])
    inside = ssim.reshape(-1, row)[:, : row - (BOX_PX - 1) * channels]
    # The sums of rows are added in float64, since a band has many values.
    return float(inside.sum(axis=1).sum(dtype=np.float64))


def _box(values: NDArray[Any], row: int, channels: int) -> NDArray[Any]:
    """Return sums over 7x7 pixels, each at the index of its first value.

    The image is one flat array. Windows that cross the end of a row are meaningless; the caller
    drops them.
    """
    # 7 = 2 + 2 + 2 + 1: sums of pairs are shared, which saves additions.
    for step in (row, channels):
        size = len(values) - 6 * step
        pairs = values[:-step] + values[step:]
        sums = pairs[:size] + pairs[2 * step : 2 * step + size]
        sums += pairs[4 * step : 4 * step + size]
        sums += values[6 * step :]
        values = sums
    return values


# The Gaussian window: its weights are not integers, so it uses float64. It multiplies with a band
# matrix, because BLAS multiplies 34 values faster than 11 passes over memory add 11.


def gaussian_mean(video_HWC: Frames, reference_HWC: Frames) -> float:
    """Return the SSIM of a frame with Wang's Gaussian window."""
    height, width, channels = video_HWC.shape
    inside_HW = height - 2 * RADIUS_PX, width - 2 * RADIUS_PX
    total = 0.0
    for start, stop in bands(inside_HW[0], GAUSSIAN_TILE_PX):
        rows = slice(start, stop + 2 * RADIUS_PX)
        for c in range(channels):
            total += _gaussian_sum(video_HWC[rows, :, c], reference_HWC[rows, :, c])
    return float(total / (inside_HW[0] * inside_HW[1] * channels))


def _gaussian_sum(video_HW: Frames, reference_HW: Frames) -> float:
    """Return the sum of SSIM over the pixels of one channel of a band, for windows inside it."""
    # Local means of s = x + y, d = x - y and their squares, four maps instead of five: 2μxμy and
    # μx² + μy² are half of μs² -+ μd². The same holds for covariance and variances.
    x, y = (frame.astype(np.float64) for frame in (video_HW, reference_HW))
    maps = np.empty((4, *x.shape))
    np.add(x, y, out=maps[0])
    np.subtract(x, y, out=maps[1])
    np.square(maps[:2], out=maps[2:])
    s, d, ss, dd = _blurred(maps)
    # In place from here on: fresh memory costs more than the arithmetic.
    s *= s
    d *= d
    ss -= s
    dd -= d
    above = s - d
    above += 2 * C1
    ssim = ss - dd
    ssim += 2 * C2
    ssim *= above
    s += d
    s += 2 * C1
    ss += dd
    ss += 2 * C2
    s *= ss
    ssim /= s
    return float(ssim.sum())


def _blurred(maps_MHW: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Gaussian means of several maps, at the pixels whose window lies inside."""
    # The Gaussian is separable: first down the columns of the band, then across its rows.
    num_maps, height, width = maps_MHW.shape
    inside_HW = height - 2 * RADIUS_PX, width - 2 * RADIUS_PX
    down = np.matmul(_blur(inside_HW[0]), maps_MHW).reshape(-1, width)
    across = np.empty((len(down), inside_HW[1]))
    for start, stop in bands(inside_HW[1], GAUSSIAN_TILE_PX):
        columns = down[:, start : stop + 2 * RADIUS_PX]
        np.matmul(columns, _blur(stop - start).T, out=across[:, start:stop])
    return across.reshape(num_maps, *inside_HW)


@cache
def _blur(size: int) -> NDArray[np.float64]:
    """Return the band matrix [size, size + 10] of Gaussian means."""
    offsets = np.arange(-RADIUS_PX, RADIUS_PX + 1)
    weights = np.exp(-0.5 * (offsets / SIGMA_PX) ** 2)
    matrix = np.zeros((size, size + 2 * RADIUS_PX))
    for i in range(size):
        matrix[i, i : i + len(offsets)] = weights / weights.sum()
    return matrix
