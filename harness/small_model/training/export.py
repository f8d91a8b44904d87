"""Writes the results of a training: the averaged weights in BF16 and a picture of the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file
from torch import Tensor

from harness.small_model.training.state import State
from harness.system.errors import UserError
from harness.system.files import sha256, whole_file

WEIGHTS = "network.safetensors"
LIMIT_MB = 25  # of the weights of one model, so that they can ship with the package
CURVE = "loss.png"
_COLOURS = ("#222222", "#c0392b", "#e08e0b", "#27864f", "#2a6fb0", "#7d3c98")


def export(state: State, folder: Path) -> dict[str, Any]:
    """Write the weights, named as in `Wan.state_dict()`, and the loss curve.

    Return a summary: file, its sha256, number of weights, megabytes, steps and minutes.

    Raises  UserError: the weights are larger than the limit.
    """
    # Refused before anything is written; a weight takes two bytes.
    count = sum(w.numel() for w in state.ema.values())
    if 2 * count > LIMIT_MB * 1e6:
        raise UserError(
            f"{count} weights take {2 * count / 1e6:.1f} MB in BF16, and {LIMIT_MB} MB ship: train "
            "a network of fewer weights (model.dims)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / WEIGHTS
    # The digest is printed, since the preset pins it.
    sha256 = write_weights(state.ema, path, torch.bfloat16)
    draw_curve(folder / CURVE, state.rows)
    return {
        "file": str(path),
        "sha256": sha256,
        "weights": count,
        "mb": round(path.stat().st_size / 1e6, 2),
        "steps": state.clock.step,
        "minutes": round(sum(state.clock.stage_minutes), 1),
    }


def write_weights(weights: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> str:
    """Write weights as safetensors in a dtype, and return the SHA-256 of the file."""
    # safetensors stores plain memory, so views have to be copied.
    cast = {name: w.to("cpu", dtype).contiguous() for name, w in weights.items()}
    with whole_file(path) as unfinished:
        save_file(cast, unfinished)
    return sha256(path)


def draw_curve(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw the loss, and its mean at each time, over the minutes as a PNG.

    Grey lines mark the starts of stages.

    rows: the log, with the columns minutes, stage, loss and loss_<time>.
    """
    width, height, margin = 960, 480, 50
    picture = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    names = [name for name in dict.fromkeys(n for row in rows for n in row) if "loss" in name]
    # `or 1`: an empty log, or one without a minute, has axes too.
    longest = max((row["minutes"] for row in rows), default=0) or 1
    highest = max((row[name] for row in rows for name in names if name in row), default=0) or 1

    def place(minutes: float, loss: float) -> tuple[float, float]:
        x = margin + minutes / longest * (width - 2 * margin)
        return x, height - margin - loss / highest * (height - 2 * margin)

    draw.line([place(0, highest), place(0, 0), place(longest, 0)], "#222222")
    for quarter in range(5):
        loss, minutes = highest * quarter / 4, longest * quarter / 4
        draw.text((8, place(0, loss)[1]), f"{loss:.2f}", "#444444", font, anchor="lm")
        label = place(minutes, 0)[0], height - margin + 14
        draw.text(label, f"{minutes:.0f} min", "#444444", font, anchor="mm")
    for before, row in pairwise(rows):
        if row["stage"] != before["stage"]:
            draw.line([place(row["minutes"], 0), place(row["minutes"], highest)], "#cccccc")
    for i, name in enumerate(names):
        colour = _COLOURS[i % len(_COLOURS)]
        points = [place(row["minutes"], row[name]) for row in rows if name in row]
        if len(points) > 1:
            draw.line(points, colour, width=2 if name == "loss" else 1)
        title = name.replace("loss_", "t = ")
        draw.text((width - margin - 70, margin + 16 * i), title, colour, font)
    with whole_file(path) as unfinished:
        picture.save(unfinished, format="PNG")
