"""Finds places, figures and their acts in the pixels of a video by drawing what could be there.

No judge is trained. A hypothesis is worth how much nearer it is to the pixels than the place
without it, in squared error that is cut off at `CUT`, summed over what it covers. Prompts say
nothing about where things are, so a figure is looked for everywhere. The marks of figures may have
any colour and do not count.

Shapes  F keyframes; cells of 2 x 2 pixels, `CELLS` each way; colours 0..1, channels last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from harness.small_model.codec import encode
from harness.small_model.scenes.motion import GROUND, SIDE, TOP, Floats, path
from harness.small_model.scenes.parts import MARK, RGB, Paint
from harness.small_model.scenes.render import (
    CIRCLE,
    FIGURES,
    FINE,
    HALO,
    Drawing,
    backdrop,
    colour_at,
    figure_outlines,
    halo_radius,
    lit,
    paints_of,
    zoom,
)
from harness.small_model.scenes.scene import (
    ACTIONS,
    COLOURS,
    EVENTS_S,
    KINDS,
    PLACES,
    Act,
    Scene,
    Thing,
)

Frames = NDArray[np.uint8]

CELL = 2  # pixels a cell, each way
CELLS = SIDE // CELL
CUT = 0.08  # largest squared error of a cell, summed over channels
SHIFTS = 16  # sideways shifts of a place that are tried
NEAR = 3  # cells about a figure's place in which other figures compete with it
_CANVAS, _ANCHOR = 96, (48, 70)  # cells that a figure is drawn on; the place of its feet on them
_DETAIL = 2  # pixels a cell in which figures are drawn, each way
_PERIOD = 128  # cells after which correlations repeat; a frame and a canvas hardly overlap there
_PHASES = (0.0, 0.5)
_WAYS = range(6, CELLS - 16, 3)  # cells that a thing may walk or run
_AROUND = 8  # cells beyond the frame at which a thing may start


def in_cells(keyframes_FHWC: Frames) -> Tensor:
    """Return keyframes [F, 128, 128, 3] uint8 as means of cells [F, 64, 64, 3] in 0..1, fp32."""
    pixels = torch.from_numpy(np.ascontiguousarray(keyframes_FHWC)).float() / 255
    means: Tensor = pixels.unflatten(2, (CELLS, CELL)).unflatten(1, (CELLS, CELL)).mean((2, 4))
    return means


def setting(scene: Scene, cells: Tensor, times_s: Floats) -> tuple[str, float]:
    """Return the place that explains keyframes best, of all, and its shift 0..1.

    The scene gives light, weather and camera. cells: [F, 64, 64, 3].
    """
    found = {place: shift_of(replace(scene, place=place), cells, times_s) for place in PLACES}
    best = min(found, key=lambda place: found[place][0])
    return best, found[best][1]


def shift_of(scene: Scene, cells: Tensor, times_s: Floats) -> tuple[float, float]:
    """Return the smallest error of the scene's place over all shifts, and its shift 0..1."""
    error = torch.zeros(SHIFTS)
    for seen, t in zip(cells, times_s.tolist(), strict=True):
        places = _backdrops(scene.place, scene.camera, 0.0 if scene.camera == "still" else t)
        error += _cut(seen - _lit(places, scene, t)).sum((1, 2))
    return error.min().item(), error.argmin().item() / SHIFTS


@dataclass(frozen=True)
class View:
    """The keyframes of a video before the place of a scene without its things.

    cells, empty: the video and the place [F, 64, 64, 3]. times_s: of the keyframes [F].
    """

    scene: Scene
    cells: Tensor
    empty: Tensor
    times_s: Floats

    @classmethod
    def of(cls, scene: Scene, cells: Tensor, times_s: Floats) -> View:
        """Return the view of keyframes [F, 64, 64, 3] at the place's best shift."""
        few = slice(None, None, max(1, len(cells) // 3))
        shift = shift_of(scene, cells[few], times_s[few])[1]
        bare = replace(scene, shift=shift, things=())
        return cls(scene, cells, in_cells(Drawing(bare, times_s).pixels(())), times_s)

    def at(self, frames: NDArray[np.intp]) -> View:
        """Return the view of some of the keyframes."""
        index = torch.from_numpy(frames)
        return View(self.scene, self.cells[index], self.empty[index], self.times_s[frames])

    def nearer(self, frame: int, paints: Sequence[RGB]) -> Tensor:
        """Return how much nearer each paint is to every cell than the place [paints, 64, 64]."""
        painted = _lit(np.array(paints, np.uint8), self.scene, float(self.times_s[frame]))
        seen = self.cells[frame]
        return _cut(seen - self.empty[frame]) - _cut(seen - painted[:, None, None])


Sketch = dict[Paint, Tensor]


def sketches(thing: Thing, times_s: Floats, scene: Scene) -> list[Sketch]:
    """Return a thing in its pose at each time: the share of every cell by paint [96, 96].

    Its feet stay at `_ANCHOR`. The light around it counts as one more paint.
    """
    way = path(thing, times_s)
    still = replace(way, x=0 * way.x, y=0 * way.y)
    outlines = figure_outlines(thing, still, times_s)
    found = []
    for f, t in enumerate(times_s.tolist()):
        near = zoom(scene, t) / CELL
        shapes = [(part.paint, points[f]) for part, points in zip(FIGURES[thing.kind], outlines,
                                                                  strict=True)]  # fmt: skip
        if way.glow[f] > 0.02:
            middle = (0, -way.height[f] / 2)
            shapes.insert(0, (HALO, CIRCLE * halo_radius(way, f) + middle))
        labels = list(dict.fromkeys(paint for paint, _ in shapes))
        canvas = Image.new("L", (_CANVAS * _DETAIL, _CANVAS * _DETAIL))
        pen = ImageDraw.Draw(canvas)
        for paint, points in shapes:
            corners = (points * near + _ANCHOR) * _DETAIL
            pen.polygon(corners.ravel().tolist(), fill=1 + labels.index(paint))
        painted = torch.from_numpy(np.array(canvas))
        fine = torch.stack([painted == 1 + i for i in range(len(labels))]).float()
        shares = fine.unflatten(2, (_CANVAS, _DETAIL)).unflatten(1, (_CANVAS, _DETAIL)).mean((2, 4))
        found.append(dict(zip(labels, shares, strict=True)))
    return found


def worths(view: View, frame: int, sketch: Sketch, colour: str) -> Tensor:
    """Return what a figure is worth at every place of its feet [2, 128, 128].

    The first axis is the figure as drawn, and mirrored. Rows and columns are cells of the frame;
    the last ones are places above and to the left of it. The mark does not count.
    """
    labels = [label for label in sketch if label != MARK]
    nearer = view.nearer(frame, [_paint(label, colour) for label in labels])
    shares = torch.stack([sketch[label] for label in labels])
    around = _PERIOD - _CANVAS
    both = torch.nn.functional.pad(torch.stack([shares, shares.flip(2)]), (0, around, 0, around))
    both = torch.roll(both, (-_ANCHOR[1], -_ANCHOR[0]), (2, 3))
    # A correlation is a product of spectra.
    spectra = torch.fft.rfft2(nearer, s=(_PERIOD, _PERIOD))
    product = (torch.fft.rfft2(both).conj() * spectra).sum(1)
    found: Tensor = torch.fft.irfft2(product, s=(_PERIOD, _PERIOD))
    return found


def figure(view: View, thing: Thing) -> Tensor:
    """Return what each kind in each colour is worth about a thing's place [kinds, colours].

    Its place in a keyframe is where its own kind, in any colour, explains most. All kinds compete
    there, in the pose that the scene gives the thing. Sums over the keyframes of the view.
    """
    poses = [sketches(replace(thing, kind=kind), view.times_s, view.scene) for kind in KINDS]
    reach = 2 * NEAR + 1
    total = torch.zeros(len(KINDS), len(COLOURS))
    for frame in range(len(view.cells)):
        drawn = [poses_F[frame] for poses_F in poses]
        own = drawn[KINDS.index(thing.kind)]
        maps = torch.stack([worths(view, frame, own, colour).amax(0) for colour in COLOURS])
        row, column = divmod(int(maps.amax(0)[:CELLS, :CELLS].argmax()), CELLS)
        top, left = _CANVAS + row - _ANCHOR[1] - NEAR, _CANVAS + column - _ANCHOR[0] - NEAR
        worth = torch.zeros(len(COLOURS), reach**2, 2 * len(KINDS))
        for label in dict.fromkeys(label for sketch in drawn for label in sketch if label != MARK):
            nothing = torch.zeros(_CANVAS, _CANVAS)
            shapes = torch.stack([sketch.get(label, nothing) for sketch in drawn])
            shapes = torch.cat([shapes, shapes.flip(2)])
            rows, columns = (shapes.amax((0, axis)).nonzero().flatten() for axis in (2, 1))
            used = (
                slice(int(rows[0]), int(rows[-1]) + 1),
                slice(int(columns[0]), int(columns[-1]) + 1),
            )
            colours = COLOURS if isinstance(label, str) else COLOURS[:1]
            nearer = view.nearer(frame, [_paint(label, colour) for colour in colours])
            padded = torch.nn.functional.pad(nearer, 4 * (_CANVAS,))
            about = padded[:, top : top + _CANVAS + reach - 1, left : left + _CANVAS + reach - 1]
            windows = about.unfold(1, _CANVAS, 1).unfold(2, _CANVAS, 1)[..., used[0], used[1]]
            worth += windows.flatten(3).flatten(1, 2) @ shapes[:, used[0], used[1]].flatten(1).T
        total += worth.amax(1).view(len(COLOURS), 2, len(KINDS)).amax(1).T
    return total


def acts(view: View, thing: Thing, part: int, colour: str) -> dict[str, float]:
    """Return what each action of a thing in a part of the clip is worth: the best of its ways.

    The acts before it are those of the scene. Where the thing starts, how far it walks, where it
    faces and the phase of its motions are free.

    view: keyframes of that part. colour: that it has there.
    """
    times_s = np.concatenate([[EVENTS_S[part]], view.times_s])  # a way counts from its start
    rows, columns = torch.arange(_AROUND, CELLS + 1), torch.arange(-_AROUND, CELLS + _AROUND)
    nears = [zoom(view.scene, t) for t in view.times_s.tolist()]
    found: dict[str, float] = {}
    seen = [action for action in ACTIONS if action != "away"]
    for action, phase in product(seen, _PHASES):
        one = _acting(thing, part, action, phase)
        way, poses = path(one, times_s), sketches(one, times_s, view.scene)[1:]
        maps = torch.stack([worths(view, f, each, colour) for f, each in enumerate(poses)], dim=1)
        maps = torch.nn.functional.max_pool2d(maps, 3, 1, 1)  # a cell to each side is forgiven
        gone, climbed = ((at[1:] - at[0]) / CELL for at in (way.x, way.y))
        lengths = [1.0]
        if action in ("walk", "run"):
            lengths = [cells / float(np.abs(gone).max()) for cells in _WAYS]
        end = {"rise": TOP, "fall": GROUND[1]}.get(action)
        for mirrored, length in product((False, True), lengths):
            total = torch.zeros(len(rows), len(columns))
            for f, near in enumerate(nears):
                y = rows + climbed[f]
                if end is not None and abs(end - way.y[0]) > CELL:
                    y = rows + (end / CELL - rows) * (climbed[f] * CELL / (end - way.y[0]))
                x = columns + length * gone[f] * (-1 if mirrored else 1)
                total += maps[int(mirrored), f][_seen(y, near)][:, _seen(x, near)]
            found[action] = max(found.get(action, -np.inf), float(total.max()))
    return found


def _acting(thing: Thing, part: int, action: str, phase: float) -> Thing:
    """Return a thing that starts on the left and acts as told, but in one part otherwise."""
    acts, goal = [], 0.1
    for p, act in enumerate(thing.acts):
        name = action if p == part else act.action
        if name in ("walk", "run"):
            goal = 1 - goal  # to the other side
        acts.append(Act(name, act.colour, goal))
    return replace(thing, x=0.1, phase=phase, acts=(acts[0], acts[1], acts[2]))


def explained(view: View, things: Sequence[Thing]) -> View:
    """Return the view with things drawn into the place, where that is nearer to the video.

    Each thing is at its best place of each keyframe, the last thing first because it is in front.
    """
    empty = view.empty.clone()
    for thing in reversed(things):
        shown = path(thing, view.times_s).shown
        before = replace(view, empty=empty.clone())
        for f, sketch in enumerate(sketches(thing, view.times_s, view.scene)):
            if shown[f]:
                colour = colour_at(thing, float(view.times_s[f]))
                picture, _ = _drawn(
                    before, f, sketch, colour, _best_place(before, f, sketch, colour)
                )
                off = _cut(view.cells[f] - picture)
                empty[f] = torch.where(
                    (off < _cut(view.cells[f] - empty[f]))[..., None], picture, empty[f]
                )
    return replace(view, empty=empty)


def miss(view: View) -> float:
    """Return the error of the drawing with the scene's place and things where they fit best."""
    return float(_cut(view.cells - explained(view, view.scene.things).empty).sum())


def mark(view: View, latents_FChw: Tensor, thing: Thing, colour: str) -> Tensor:
    """Return the colour of a thing's mark in each keyframe [F, 3], without light, by least squares.

    The codec mixes the colours of a block, so the fit is in latents: those of the place and the
    figure, plus the unknown colour times those of the mark.

    latents_FChw: of the same keyframes. colour: of the thing.
    """
    found = torch.zeros(len(view.cells), 3)
    for f, sketch in enumerate(sketches(thing, view.times_s, view.scene)):
        mirrored, row, column = _best_place(view, f, sketch, colour)
        least = torch.inf
        for dy, dx in product((-1, 0, 1), repeat=2):
            base, share = _drawn(view, f, sketch, colour, (mirrored, row + dy, column + dx))
            answers = torch.eye(3)[:, None, None] * share[..., None]  # of one channel each
            pictures = torch.cat([base[None], base + answers])
            latents = encode(pictures.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2) * 255)
            columns = (latents[1:] - latents[0]).flatten(1).T
            rest = (latents_FChw[f] - latents[0]).flatten()
            solved = torch.linalg.lstsq(columns, rest[:, None]).solution[:, 0]
            error = float((columns @ solved - rest).square().sum())
            if error < least:
                least, found[f] = error, solved
        t = float(view.times_s[f])
        dark, bright = (_lit(np.full(3, level, np.uint8), view.scene, t) for level in (0, 255))
        found[f] = (found[f] - dark) / (bright - dark)
    return found


def _paint(label: Paint, colour: str) -> RGB:
    """Return the paint of a part of a thing of a colour."""
    return paints_of(colour)[label] if isinstance(label, str) else label


def _seen(cells: Tensor, near: float) -> Tensor:
    """Return the cells of the picture at which the camera shows cells of the stage."""
    return torch.round((cells - CELLS / 2) * near + CELLS / 2).long() % _PERIOD


def _lit(paints: NDArray[np.uint8], scene: Scene, t: float) -> Tensor:
    """Return colours [..., 3] of 0..1 in the light of a scene."""
    return torch.from_numpy(lit(paints, scene, t)).float() / 255


def _cut(difference: Tensor) -> Tensor:
    """Return squared errors [...] of colours [..., 3], cut off so that no cell decides alone."""
    return difference.square().sum(-1).clamp(max=CUT)


@lru_cache(maxsize=400)
def _backdrops(place: str, camera: str, t: float) -> NDArray[np.uint8]:
    """Return a place at all shifts [16, 64, 64, 3], without light."""
    scenes = [Scene(place, "day", "clear", camera, s / SHIFTS, ()) for s in range(SHIFTS)]
    return np.stack([np.asarray(backdrop(scene, t).reduce(CELL * FINE)) for scene in scenes])


def _best_place(view: View, frame: int, sketch: Sketch, colour: str) -> tuple[int, int, int]:
    """Return where a figure explains a keyframe best: mirrored or not, row and column."""
    best = worths(view, frame, sketch, colour)[:, :CELLS, :CELLS]
    mirrored, cell = divmod(int(best.argmax()), CELLS**2)
    return mirrored, *divmod(cell, CELLS)


def _drawn(
    view: View, frame: int, sketch: Sketch, colour: str, place: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Return the place with a figure whose mark is black [64, 64, 3], and the mark's share."""
    mirrored, row, column = place
    picture, share = view.empty[frame], torch.zeros(CELLS, CELLS)
    t = float(view.times_s[frame])
    for label, drawn in sketch.items():
        placed = _placed(drawn.flip(1) if mirrored else drawn, row, column)
        if label == MARK:
            share, painted = placed, torch.zeros(3)
        else:
            painted = _lit(np.array(_paint(label, colour), np.uint8), view.scene, t)
        picture = picture + placed[..., None] * (painted - picture)
    return picture, share


def _placed(drawn: Tensor, row: int, column: int) -> Tensor:
    """Return a drawing's cells in the frame [64, 64], with its feet at a row and a column."""
    frame = slice(2 * CELLS, 3 * CELLS)
    around = torch.zeros(5 * CELLS, 5 * CELLS)
    top, left = frame.start + row - _ANCHOR[1], frame.start + column - _ANCHOR[0]
    around[top : top + _CANVAS, left : left + _CANVAS] = drawn
    return around[frame, frame]
