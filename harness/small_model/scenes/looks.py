"""Computes an embedding of each kind of figure from what the figure looks like."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from harness.small_model.scenes.parts import BODY, DARK, LIGHT, MARK, Part
from harness.small_model.scenes.render import FIGURES
from harness.small_model.scenes.scene import KINDS

COUNT = 34  # numbers of a figure: nine tenths of the variance between the pictures below
_SIDE, _FINE = 24, 4  # pixels of a picture, and of the canvas per pixel
_PAINTS = (BODY, DARK, LIGHT, MARK)


@cache
def looks() -> Tensor:
    """Return an embedding of each kind [66, 34] float32, in the order of `KINDS`.

    Its numbers are the principal components of small pictures of the figures. Figures that look
    alike have similar numbers, so a network learns them together. From a one-hot encoding of the
    kind it would have to learn each one alone.
    """
    pictures = np.stack([_picture(FIGURES[kind]) for kind in KINDS]).reshape(len(KINDS), -1)
    left, sizes, axes = np.linalg.svd(pictures - pictures.mean(0), full_matrices=False)
    # The sign of a component is arbitrary and may differ between machines. Trained weights depend
    # on it, so the largest entry of each axis is made positive.
    signs = np.sign(np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1))[:, 0]
    found = (left * sizes * signs)[:, :COUNT]
    # One factor for all columns makes their mean standard deviation 1, the scale of the one-hot
    # columns beside them. The first components stay the largest.
    return torch.tensor(found / found.std(0).mean(), dtype=torch.float32)


def _picture(figure: tuple[Part, ...]) -> NDArray[np.float64]:
    """Draw a figure as eight grey pictures [8, 24, 24] of 0..1.

    The first shows where the figure is, the next four where each of `_PAINTS` is, and the last
    three the red, green and blue of parts that have a colour of their own.
    """
    side = _SIDE * _FINE
    planes = [Image.new("L", (side, side)) for _ in range(1 + len(_PAINTS) + 3)]
    for part in figure:
        named = [255 * (part.paint == paint) for paint in _PAINTS]
        fixed = [0, 0, 0] if isinstance(part.paint, str) else part.paint
        # Most figures are less than 1.8 heights wide and 1.35 high; larger ones are cut off.
        corners = (part.outline + np.array([0.9, 1.35])) / 1.8 * side
        points = (np.rint(corners * 16) / 16).ravel().tolist()  # alike on every machine
        for plane, value in zip(planes, (255, *named, *fixed), strict=True):
            ImageDraw.Draw(plane).polygon(points, fill=value)
    return np.stack([np.asarray(plane.reduce(_FINE), np.float64) / 255 for plane in planes])
