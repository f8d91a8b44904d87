"""Five per-frame signals of pixels that show drift, without weights or a reference video.

For none of them is higher or lower better: a change in either direction is drift. Luma is
0.299 R + 0.587 G + 0.114 B, in grey levels of 0 to 255.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from harness.results.scores import Column, Value
from harness.scoring.metrics.metric import Clip, Metric, Unscorable
from harness.scoring.metrics.windows import WINDOWS, Quantity, Series, summarise

Pixels = NDArray[np.float32]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
MIN_SIDE_PX = 3  # the Laplacian needs a neighbour on each side


class Signals(Metric):
    """Brightness, contrast, sharpness, colourfulness and flicker."""

    name = "signals"
    brightness = Quantity("signals_brightness", "mean luma", unit="levels")
    contrast = Quantity("signals_contrast", "standard deviation of luma", unit="levels")
    sharpness = Quantity("signals_sharpness", "variance of the Laplacian of luma", unit="levels²")
    colourfulness = Quantity("signals_colourfulness", "spread and strength of colour")
    flicker = Quantity("signals_flicker", "mean change of luma from frame to frame", unit="levels")
    quantities = (brightness, contrast, sharpness, colourfulness, flicker)

    def columns(self) -> tuple[Column, ...]:
        """Return the columns of each signal by windows of time."""
        return tuple(column for quantity in self.quantities for column in quantity.columns())

    def version(self) -> str:
        """Describe the definitions; no package affects them."""
        said = "luma of BT.601, Laplacian of 4 neighbours, Hasler and Süsstrunk, every frame"
        return f"{said}, {WINDOWS}"

    def measure(self, clip: Clip, reference: Clip | None, device: str) -> Mapping[str, Value]:
        """Return the values of `columns`."""
        num_frames, height, width, _ = clip.frames_THWC.shape
        if num_frames < 2 or min(height, width) < MIN_SIDE_PX:
            raise Unscorable(
                f"signals need 2 frames of {MIN_SIDE_PX}x{MIN_SIDE_PX} pixels or more, this video "
                f"has {num_frames} of {height}x{width}"
            )
        still: list[tuple[float, ...]] = []
        changes: list[float] = []
        before: Pixels | None = None
        # One frame at a time: 165 frames of 480x832 then take 20 MB besides the frames themselves,
        # and a second on one thread.
        for frame_HWC in clip.frames_THWC:
            pixels_HWC = frame_HWC.astype(np.float32)
            # Flicker needs the frame before, so the luma of one frame is kept.
            luma_HW = luma(pixels_HWC)
            of_frame = (luma_HW.mean((-2, -1)), contrast(luma_HW), sharpness(luma_HW))
            still.append((*map(float, of_frame), float(colourfulness(pixels_HWC))))
            if before is not None:
                changes.append(float(change(luma_HW, before)))
            before = luma_HW
        row: dict[str, Value] = {}
        for quantity, values_T in zip(
            self.quantities[:-1], np.array(still, np.float64).T, strict=True
        ):
            row |= quantity.row(summarise(values_T, clip))
        series: Series = np.array(changes, np.float64)
        return row | self.flicker.row(summarise(series, clip, first_frame=1))


def luma(pixels: Pixels) -> Pixels:
    """Return the luma of pixels of 0 to 255.

    Source  ITU-R BT.601.
    Shapes  [..., H, W, 3] f32 -> [..., H, W] f32.
    """
    return pixels @ LUMA


def contrast(luma_HW: Pixels) -> Pixels:
    """Return the standard deviation of luma over an image, in grey levels.

    Shapes  [..., H, W] f32 -> [...] f32.
    """
    # Without Bessel's correction: the pixels are all there are, not a sample.
    found: Pixels = luma_HW.std((-2, -1))
    return found


def sharpness(luma_HW: Pixels) -> Pixels:
    """Return the variance of the Laplacian of luma, in squared grey levels.

    Source  Pech-Pacheco et al. 2000, with the kernel of four neighbours at the inner pixels.
    Shapes  [..., H, W] f32 -> [...] f32.
    """
    # It falls with blur, rises with grain and visible quantization, and grows with the square of
    # contrast. Inner pixels only: any rule for the border would add edges of its own.
    laplacian = -4 * luma_HW[..., 1:-1, 1:-1]
    laplacian += luma_HW[..., :-2, 1:-1]
    laplacian += luma_HW[..., 2:, 1:-1]
    laplacian += luma_HW[..., 1:-1, :-2]
    laplacian += luma_HW[..., 1:-1, 2:]
    found: Pixels = laplacian.var((-2, -1))
    return found


def colourfulness(pixels: Pixels) -> Pixels:
    """Return the spread of colours along red-green and yellow-blue, plus their distance from grey.

    Source  Hasler and Süsstrunk 2003: about 15 is slightly, 45 quite, 82 highly colourful.
    Shapes  [..., H, W, 3] f32 -> [...] f32.
    """
    # a: red against green. b: yellow (the mean of red and green) against blue.
    a = pixels[..., 0] - pixels[..., 1]
    b = (pixels[..., 0] + pixels[..., 1]) / 2 - pixels[..., 2]
    image = (-2, -1)
    # Hasler and Süsstrunk's M = sigma_rgyb + 0.3 mu_rgyb.
    spread = np.sqrt(a.var(image) + b.var(image))
    found: Pixels = spread + 0.3 * np.sqrt(a.mean(image) ** 2 + b.mean(image) ** 2)
    return found


def change(luma_HW: Pixels, before_HW: Pixels) -> Pixels:
    """Return the mean absolute change of luma between two images, in grey levels.

    Shapes  both [..., H, W] f32 -> [...] f32.
    """
    # Flicker and motion together: a panning camera changes every pixel. It shows flicker only
    # beside another video of the same scene, or over time under constant motion.
    found: Pixels = np.abs(luma_HW - before_HW).mean((-2, -1))
    return found
