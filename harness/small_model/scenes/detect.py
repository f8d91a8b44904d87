"""Finds places, figures and their actions in the pixels of a video by drawing hypotheses.

No classifier is trained. The gain of a hypothesis is the squared error that it removes: the error
of the empty place minus the error of the place with the figure drawn into it, summed over the cells
that the figure covers. The error of a cell is cut off at `CUT`.

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

# Cells of two pixels make correlations four times cheaper, and latents hold no finer detail.
CELL = 2  # pixels a cell, each way
CELLS = SIDE // CELL
CUT = 0.08  # largest squared error of a cell, summed over channels; see `_cut`
# A shift moves the ground by up to 32 pixels, so these are two pixels apart.
SHIFTS = 16  # sideways shifts of a place that are tried
NEAR = 3  # distance in cells from a figure's position at which other kinds are tried
_CANVAS, _ANCHOR = 96, (48, 70)  # cells of the canvas of a figure; column and row of its feet
_DETAIL = 2  # drawn pixels per cell of the canvas, each way
# The FFT makes correlations periodic, with a period in cells at which a frame and the figure on a
# canvas hardly overlap.
_PERIOD = 128
_PHASES = (0.0, 0.5)  # of periodic motions, of which prompts say nothing
_DISTANCES = range(6, CELLS - 16, 3)  # cells that a thing may walk or run
_AROUND = 8  # cells beyond the frame at which a thing may start


def in_cells(keyframes_FHWC: Frames) -> Tensor:
    """Return keyframes [F, 128, 128, 3] uint8 as means of cells [F, 64, 64, 3] in 0..1, fp32."""
    pixels = torch.from_numpy(np.ascontiguousarray(keyframes_FHWC)).float() / 255
    means: Tensor = pixels.unflatten(2, (CELLS, CELL)).unflatten(1, (CELLS, CELL)).mean((2, 4))
    return means


def setting(scene: Scene, cells: Tensor, times_s: Floats) -> tuple[str, float]:
    """Return the place, of all, with the smallest error in the keyframes, and its shift 0..1.

    The scene gives light, weather and camera. cells: [F, 64, 64, 3].
    """
    # Things stand in the way of all places alike, so they need not be drawn for this.
    found = {place: shift_of(replace(scene, place=place), cells, times_s) for place in PLACES}
    best = min(found, key=lambda place: found[place][0])
    return best, found[best][1]


def shift_of(scene: Scene, cells: Tensor, times_s: Floats) -> tuple[float, float]:
    """Return the smallest error of the scene's place over all shifts, and its shift 0..1."""
    error = torch.zeros(SHIFTS)
    for seen, t in zip(cells, times_s.tolist(), strict=True):
        # A still camera shows the same backdrop at all times: one key of the cache serves them.
        places = _backdrops(scene.place, scene.camera, 0.0 if scene.camera == "still" else t)
        error += _cut(seen - _lit(places, scene, t)).sum((1, 2))
    # Summed over keyframes first: one shift must fit them all.
    return error.min().item(), error.argmin().item() / SHIFTS


@dataclass(frozen=True)
class View:
    """Keyframes of a video, and the place of its scene drawn without things.

    cells, empty: the video and the place [F, 64, 64, 3].
    times_s: time of each keyframe [F].
    """

    scene: Scene
    cells: Tensor
    empty: Tensor
    times_s: Floats

    @classmethod
    def of(cls, scene: Scene, cells: Tensor, times_s: Floats) -> View:
        """Return the view of keyframes [F, 64, 64, 3] at the place's best shift."""
        few = slice(None, None, max(1, len(cells) // 3))  # the shift is constant: three suffice
        shift = shift_of(scene, cells[few], times_s[few])[1]
        # With sun or clock, rain and light, which the scene and the time determine.
        bare = replace(scene, shift=shift, things=())
        return cls(scene, cells, in_cells(Drawing(bare, times_s).pixels(())), times_s)

    def at(self, frames: NDArray[np.intp]) -> View:
        """Return the view of some of the keyframes."""
        index = torch.from_numpy(frames)
        return View(self.scene, self.cells[index], self.empty[index], self.times_s[frames])

    def gains(self, frame: int, paints: Sequence[RGB]) -> Tensor:
        """Return the error that each paint removes in every cell [paints, 64, 64]."""
        # The light falls on figures too, so paints are compared as they look at that time.
        painted = _lit(np.array(paints, np.uint8), self.scene, float(self.times_s[frame]))
        seen = self.cells[frame]
        return _cut(seen - self.empty[frame]) - _cut(seen - painted[:, None, None])


Sketch = dict[Paint, Tensor]


def sketches(thing: Thing, times_s: Floats, scene: Scene) -> list[Sketch]:
    """Return a thing in its pose at each time: for every paint, the share of each cell [96, 96].

    Its feet stay at `_ANCHOR`. The light around it counts as one more paint.
    """
    way = path(thing, times_s)
    # Keep the pose but not the position, because figures are searched for in the whole frame.
    still = replace(way, x=0 * way.x, y=0 * way.y)
    outlines = figure_outlines(thing, still, times_s)
    found = []
    for f, t in enumerate(times_s.tolist()):
        # From pixels of the stage to cells of the picture.
        near = zoom(scene, t) / CELL
        shapes = [(part.paint, points[f]) for part, points in zip(FIGURES[thing.kind], outlines,
                                                                  strict=True)]  # fmt: skip
        if way.glow[f] > 0.02:
            middle = (0, -way.height[f] / 2)
            shapes.insert(0, (HALO, CIRCLE * halo_radius(way, f) + middle))
        labels = list(dict.fromkeys(paint for paint, _ in shapes))
        canvas = Image.new("L", (_CANVAS * _DETAIL, _CANVAS * _DETAIL))
        pen = ImageDraw.Draw(canvas)
        # Draw numbers of paints rather than colours: a later part hides an earlier one, as in a
        # picture, and what remains of each paint can be read from one canvas.
        for paint, points in shapes:
            corners = (points * near + _ANCHOR) * _DETAIL
            pen.polygon(corners.ravel().tolist(), fill=1 + labels.index(paint))
        painted = torch.from_numpy(np.array(canvas))
        fine = torch.stack([painted == 1 + i for i in range(len(labels))]).float()
        shares = torch.nn.functional.avg_pool2d(fine, _DETAIL)  # exact: means of four zeros or ones
        found.append(dict(zip(labels, shares, strict=True)))
    return found


def gain_map(view: View, frame: int, sketch: Sketch, colour: str) -> Tensor:
    """Return the gain of a figure at every position of its feet [2, 128, 128].

    The first axis is the figure as drawn, and mirrored. Rows and columns are cells of the frame;
    the last ones are positions above and to the left of it.
    """
    # The prompt does not determine the colour of the mark, so the mark does not count.
    labels = [label for label in sketch if label != MARK]
    gains = view.gains(frame, [_paint(label, colour) for label in labels])
    shares = torch.stack([sketch[label] for label in labels])
    # Padded to the period, and rolled so that the feet are at the origin: a position of the result
    # is then that of the feet.
    around = _PERIOD - _CANVAS
    both = torch.nn.functional.pad(torch.stack([shares, shares.flip(2)]), (0, around, 0, around))
    both = torch.roll(both, (-_ANCHOR[1], -_ANCHOR[0]), (2, 3))
    # The gain at a position is the correlation of shares and gains: a product of their spectra.
    spectra = torch.fft.rfft2(gains, s=(_PERIOD, _PERIOD))
    product = (torch.fft.rfft2(both).conj() * spectra).sum(1)
    found: Tensor = torch.fft.irfft2(product, s=(_PERIOD, _PERIOD))
    return found


def figure(view: View, thing: Thing) -> Tensor:
    """Return the gain of each kind in each colour near a thing's position [kinds, colours].

    Its position in a keyframe is where its own kind, in any colour, has the largest gain. All kinds
    compete there, in the pose that the scene gives the thing. Gains are summed over the keyframes
    of the view.
    """
    # All kinds in the act of the thing, so that only their shapes compete.
    poses = [sketches(replace(thing, kind=kind), view.times_s, view.scene) for kind in KINDS]
    reach = 2 * NEAR + 1
    total = torch.zeros(len(KINDS), len(COLOURS))
    for frame in range(len(view.cells)):
        drawn = [poses_F[frame] for poses_F in poses]
        own = drawn[KINDS.index(thing.kind)]
        # Correlating all kinds everywhere would cost 66 times as much; its own kind finds the
        # position.
        maps = torch.stack([gain_map(view, frame, own, colour).amax(0) for colour in COLOURS])
        row, column = divmod(int(maps.amax(0)[:CELLS, :CELLS].argmax()), CELLS)
        top, left = _CANVAS + row - _ANCHOR[1] - NEAR, _CANVAS + column - _ANCHOR[0] - NEAR
        # Few positions remain, so multiply windows by shapes directly.
        # A gain for every colour, every position nearby, and every kind as drawn and mirrored.
        gain = torch.zeros(len(COLOURS), reach**2, 2 * len(KINDS))
        for label in dict.fromkeys(label for sketch in drawn for label in sketch if label != MARK):
            nothing = torch.zeros(_CANVAS, _CANVAS)
            shapes = torch.stack([sketch.get(label, nothing) for sketch in drawn])
            shapes = torch.cat([shapes, shapes.flip(2)])
            rows, columns = (shapes.amax((0, axis)).nonzero().flatten() for axis in (2, 1))
            # Multiply only the rectangle of the canvas that any figure covers with this paint.
            used = (
                slice(int(rows[0]), int(rows[-1]) + 1),
                slice(int(columns[0]), int(columns[-1]) + 1),
            )
            # A fixed paint, such as skin, is the same for all colours and broadcasts over them.
            colours = COLOURS if isinstance(label, str) else COLOURS[:1]
            gains = view.gains(frame, [_paint(label, colour) for colour in colours])
            padded = torch.nn.functional.pad(gains, 4 * (_CANVAS,))
            about = padded[:, top : top + _CANVAS + reach - 1, left : left + _CANVAS + reach - 1]
            windows = about.unfold(1, _CANVAS, 1).unfold(2, _CANVAS, 1)[..., used[0], used[1]]
            gain += windows.flatten(3).flatten(1, 2) @ shapes[:, used[0], used[1]].flatten(1).T
        # The best position and the better side in each keyframe: a figure may move and turn
        # between.
        total += gain.amax(1).view(len(COLOURS), 2, len(KINDS)).amax(1).T
    return total


def acts(view: View, thing: Thing, part: int, colour: str) -> dict[str, float]:
    """Return the gain of each action of a thing in a part of the clip, for its best variant.

    The earlier acts are those of the scene. The start of the thing, the distance that it walks, the
    direction that it faces and the phase of its motions are free.

    view: keyframes of that part.
    colour: of the thing in that part.
    """
    # The path is needed at the start of the part too, since positions are relative to it.
    times_s = np.concatenate([[EVENTS_S[part]], view.times_s])
    rows, columns = torch.arange(_AROUND, CELLS + 1), torch.arange(-_AROUND, CELLS + _AROUND)
    nears = [zoom(view.scene, t) for t in view.times_s.tolist()]
    found: dict[str, float] = {}
    visible = [action for action in ACTIONS if action != "away"]
    for action, phase in product(visible, _PHASES):
        # The thing starts on the left and walks to the right; mirrored and shifted paths follow
        # from one.
        one = _acting(thing, part, action, phase)
        way, poses = path(one, times_s), sketches(one, times_s, view.scene)[1:]
        maps = torch.stack([gain_map(view, f, each, colour) for f, each in enumerate(poses)], dim=1)
        maps = torch.nn.functional.max_pool2d(maps, 3, 1, 1)  # allow one cell to each side
        # Relative to the start of the part, which is tried everywhere.
        gone, climbed = ((at[1:] - at[0]) / CELL for at in (way.x, way.y))
        # Only walks have a free length; what other acts move is part of them.
        lengths = [1.0]
        if action in ("walk", "run"):
            lengths = [cells / float(np.abs(gone).max()) for cells in _DISTANCES]
        # Things rise and fall to a fixed height, so the distance depends on the row they start in.
        end = {"rise": TOP, "fall": GROUND[1]}.get(action)
        for mirrored, length in product((False, True), lengths):
            total = torch.zeros(len(rows), len(columns))
            for f, near in enumerate(nears):
                y = rows + climbed[f]
                if end is not None and abs(end - way.y[0]) > CELL:
                    y = rows + (end / CELL - rows) * (climbed[f] * CELL / (end - way.y[0]))
                x = columns + length * gone[f] * (-1 if mirrored else 1)
                # One path for all starts at once: rows and columns of the map are looked up where
                # the path leads.
                total += maps[int(mirrored), f][_seen(y, near)][:, _seen(x, near)]
            found[action] = max(found.get(action, -np.inf), float(total.max()))
    return found


def _acting(thing: Thing, part: int, action: str, phase: float) -> Thing:
    """Return the thing with another action in one part, and a start on the left."""
    acts, goal = [], 0.1
    for p, act in enumerate(thing.acts):
        name = action if p == part else act.action
        if name in ("walk", "run"):
            goal = 1 - goal  # to the other side
        acts.append(Act(name, act.colour, goal))
    return replace(thing, x=0.1, phase=phase, acts=(acts[0], acts[1], acts[2]))


def explained(view: View, things: Sequence[Thing]) -> View:
    """Return the view with things drawn into the place, in the cells where that reduces the error.

    Each thing is drawn at its best position in each keyframe.
    """
    empty = view.empty.clone()
    # The last thing is in front, so its position is the most certain: explain its cells first.
    for thing in reversed(things):
        shown = path(thing, view.times_s).shown
        before = replace(view, empty=empty.clone())
        for f, sketch in enumerate(sketches(thing, view.times_s, view.scene)):
            if shown[f]:
                colour = colour_at(thing, float(view.times_s[f]))
                picture, _ = _drawn(
                    before, f, sketch, colour, _best_place(before, f, sketch, colour)
                )
                # Cell by cell: where another thing stands in front, the drawing of this one is not
                # better.
                off = _cut(view.cells[f] - picture)
                empty[f] = torch.where(
                    (off < _cut(view.cells[f] - empty[f]))[..., None], picture, empty[f]
                )
    return replace(view, empty=empty)


def miss(view: View) -> float:
    """Return the error of the drawing with the scene's place and things where they fit best."""
    # By errors that are left, since scenes of more things would gather more gain.
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
        # The position with the smallest remaining error decides the colour.
        least = torch.inf
        # The best place is known to a cell only, so its neighbours are tried too.
        for dy, dx in product((-1, 0, 1), repeat=2):
            base, share = _drawn(view, f, sketch, colour, (mirrored, row + dy, column + dx))
            answers = torch.eye(3)[:, None, None] * share[..., None]  # of one channel each
            pictures = torch.cat([base[None], base + answers])
            # Enlarge cells to pixels, because the codec encodes blocks of 8 x 8 pixels.
            latents = encode(pictures.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2) * 255)
            columns = (latents[1:] - latents[0]).flatten(1).T
            # `encode` is linear up to a constant, so latents of a mixture are the mixture of
            # latents.
            rest = (latents_FChw[f] - latents[0]).flatten()
            solved = torch.linalg.lstsq(columns, rest[:, None]).solution[:, 0]
            error = float((columns @ solved - rest).square().sum())
            if error < least:
                least, found[f] = error, solved
        t = float(view.times_s[f])
        # Undo the light, which is linear in the colour: black and white show offset and scale.
        dark, bright = (_lit(np.full(3, level, np.uint8), view.scene, t) for level in (0, 255))
        found[f] = (found[f] - dark) / (bright - dark)
    return found


def _paint(label: Paint, colour: str) -> RGB:
    """Return the paint of a part of a thing of a colour."""
    return paints_of(colour)[label] if isinstance(label, str) else label


def _seen(cells: Tensor, near: float) -> Tensor:
    """Return the cells of the picture in which the camera shows cells of the stage."""
    return torch.round((cells - CELLS / 2) * near + CELLS / 2).long() % _PERIOD


def _lit(paints: NDArray[np.uint8], scene: Scene, t: float) -> Tensor:
    """Return colours [..., 3] of 0..1 in the light of a scene."""
    return torch.from_numpy(lit(paints, scene, t)).float() / 255


def _cut(difference: Tensor) -> Tensor:
    """Return squared errors [...] of colours [..., 3], at most `CUT`."""
    # Without the limit, a few cells of a wrong colour would outweigh the shape of a figure.
    return difference.square().sum(-1).clamp(max=CUT)


@lru_cache(maxsize=400)
def _backdrops(place: str, camera: str, t: float) -> NDArray[np.uint8]:
    """Return a place at all shifts [16, 64, 64, 3], without light."""
    # Without light, which differs from scene to scene; 400 entries serve all places of several
    # videos.
    scenes = [Scene(place, "day", "clear", camera, s / SHIFTS, ()) for s in range(SHIFTS)]
    return np.stack([np.asarray(backdrop(scene, t).reduce(CELL * FINE)) for scene in scenes])


def _best_place(view: View, frame: int, sketch: Sketch, colour: str) -> tuple[int, int, int]:
    """Return where a figure has the largest gain: mirrored or not, row and column."""
    best = gain_map(view, frame, sketch, colour)[:, :CELLS, :CELLS]
    mirrored, cell = divmod(int(best.argmax()), CELLS**2)
    return mirrored, *divmod(cell, CELLS)


def _drawn(
    view: View, frame: int, sketch: Sketch, colour: str, place: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Return the place with a figure whose mark is black [64, 64, 3], and the mark's share."""
    mirrored, row, column = place
    picture, share = view.empty[frame], torch.zeros(CELLS, CELLS)
    t = float(view.times_s[frame])
    # A margin of two frames on each side takes any canvas, so that no slice is cut off.
    frame_at = slice(2 * CELLS, 3 * CELLS)
    top, left = frame_at.start + row - _ANCHOR[1], frame_at.start + column - _ANCHOR[0]
    for label, drawn in sketch.items():
        around = torch.zeros(5 * CELLS, 5 * CELLS)
        around[top : top + _CANVAS, left : left + _CANVAS] = drawn.flip(1) if mirrored else drawn
        placed = around[frame_at, frame_at]
        if label == MARK:
            share, painted = placed, torch.zeros(3)
        else:
            painted = _lit(np.array(_paint(label, colour), np.uint8), view.scene, t)
        # A cell that is covered in part is a mixture, as in the picture that was reduced.
        picture = picture + placed[..., None] * (painted - picture)
    return picture, share
