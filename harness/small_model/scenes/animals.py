"""Figures of animals."""

from __future__ import annotations

from harness.small_model.scenes.parts import (
    BODY,
    DARK,
    GLASS,
    INK,
    LIGHT,
    MARK,
    SKIN,
    WHITE,
    Joint,
    Paint,
    Part,
    limb,
    oval,
    rect,
    shape,
)

# Coordinates are shares of a figure's height (`parts.py`). Every figure has a part with the mark,
# of which a test checks that it shows.
Figure = tuple[Part, ...]
BEAK = (245, 170, 50)

# Of turtles, whose shell alone has the thing's colour.
LEAF_SKIN = (120, 170, 90)


def _quadruped(  # noqa: PLR0913  what tells one animal from another
    legs: float = 0.36,
    length: float = 0.5,
    deep: float = 0.19,
    head: float = 0.19,
    neck: float = 0.12,
    ears: str = "round",
    snout: float = 0.14,
    tail: float = 0.3,
    extra: Figure = (),
) -> Figure:
    """Return an animal on four legs with a collar that bears the mark."""
    back = -legs - 2 * deep
    hx, hy = length * 0.85, back - neck
    # Head, neck, ears, snout and mark hang on one joint, so that they bow together.
    bow = Joint(length * 0.6, back + deep * 0.5, "nod", 0.7)
    up = {
        "round": (oval(DARK, hx - 0.1, hy - head * 0.9, 0.075, 0.075, bow),),
        "point": (
            shape(DARK, (hx - head, hy - head * 0.4), (hx - head * 0.7, hy - head * 1.9),
                  (hx - head * 0.1, hy - head * 0.8), joint=bow),
        ),
        "long": (oval(LIGHT, hx - 0.08, hy - head - 0.16, 0.06, 0.22, bow),),
        "flop": (oval(DARK, hx - head * 0.8, hy + 0.02, 0.07, 0.15, bow),),
        "horn": (
            shape(WHITE, (hx - 0.08, hy - head * 0.7), (hx - 0.02, hy - head * 1.8),
                  (hx + 0.06, hy - head * 0.7), joint=bow),
        ),
    }[ears]  # fmt: skip
    # Legs of a pair swing against each other; the dark ones are those of the far side.
    hips = (-length * 0.75, -length * 0.5, length * 0.5, length * 0.72)
    swings = (0.5, -0.5, 0.5, -0.5)
    return (
        *(
            limb(DARK if i % 2 else BODY, (x, back + deep), (x, 0), 0.12,
                 Joint(x, back + deep, "leg", by))
            for i, (x, by) in enumerate(zip(hips, swings, strict=True))
        ),
        # The tail lies behind the body, the neck before it.
        limb(DARK, (-length * 0.9, back + deep * 0.6), (-length - tail * 0.7, back - tail * 0.5),
             0.07, Joint(-length * 0.9, back + deep * 0.6, "flap", 0.3)),
        oval(BODY, 0, back + deep, length, deep),
        *extra,
        limb(BODY, (length * 0.6, back + deep), (hx, hy), head * 1.1, bow),
        oval(MARK, (length * 0.62 + hx) / 2, (back + deep + hy) / 2, 0.11, 0.09, bow),
        oval(BODY, hx, hy, head, head * 0.85, bow),
        oval(LIGHT, hx + head * 0.85, hy + head * 0.25, snout, snout * 0.65, bow),
        *up,
        oval(INK, hx + head * 0.35, hy - head * 0.2, 0.03, 0.035, bow),
    )  # fmt: skip


def _upright(tail: float, ears: str, belly: Paint = LIGHT) -> Figure:
    """Return a kangaroo or monkey: a sitting body, long legs, a tail."""
    bow = Joint(0.08, -0.7, "nod", 0.5)
    # Long ears stand above the head of a kangaroo, round ones beside that of a monkey.
    above = (
        (oval(DARK, 0.06, -1.0, 0.05, 0.13, bow),)
        if ears == "long"
        else (oval(SKIN, -0.06, -0.84, 0.08, 0.08, bow), oval(SKIN, 0.26, -0.84, 0.08, 0.08, bow))
    )
    return (
        limb(DARK, (-0.1, -0.3), (-0.2 - tail, -0.04), 0.12, Joint(-0.1, -0.3, "flap", 0.25)),
        limb(DARK, (-0.06, -0.3), (0.02, 0), 0.16, Joint(-0.06, -0.3, "leg", -0.5)),
        limb(BODY, (0.04, -0.3), (0.14, 0), 0.16, Joint(0.04, -0.3, "leg", 0.5)),
        oval(BODY, -0.01, -0.42, 0.2, 0.3),
        oval(belly, 0.08, -0.4, 0.1, 0.18),
        limb(DARK, (0.08, -0.6), (0.28, -0.42), 0.08, Joint(0.08, -0.6, "reach", -1.8)),
        rect(MARK, -0.12, -0.72, 0.16, -0.63),
        oval(BODY, 0.1, -0.82, 0.16, 0.14, bow),
        oval(SKIN, 0.2, -0.79, 0.1, 0.08, bow),
        *above,
        oval(INK, 0.17, -0.86, 0.025, 0.03, bow),
    )


# Joints at the neck, about which heads bow.
_ELEPHANT_NECK = Joint(0.4, -0.7, "nod", 0.5)
_BIRD_NECK = Joint(0.2, -0.5, "nod", 0.8)
_PENGUIN_NECK = Joint(0, -0.7, "nod", 0.4)
_TURTLE_NECK = Joint(0.4, -0.3, "nod", 0.5)
_DRAGON_NECK = Joint(0.36, -0.56, "nod", 0.5)
# Marks hang on the joints of the wings that they are on.
_BUTTERFLY_LEFT, _BUTTERFLY_RIGHT = Joint(0, -0.5, "flap", 0.35), Joint(0, -0.5, "flap", -0.35)


FIGURES: dict[str, Figure] = {
    "dog": _quadruped(ears="flop", tail=0.4, length=0.46),
    "cat": _quadruped(ears="point", head=0.2, snout=0.08, tail=0.55, legs=0.28, length=0.42),
    "horse": _quadruped(
        legs=0.46, neck=0.36, head=0.14, snout=0.17, deep=0.17, length=0.44, ears="point",
        extra=(limb(INK, (0.2, -0.78), (0.34, -1.12), 0.12),),
    ),
    "cow": _quadruped(
        ears="horn", legs=0.3, deep=0.23, length=0.52, neck=0.04,
        extra=(oval(WHITE, -0.2, -0.6, 0.14, 0.1), oval(WHITE, 0.14, -0.46, 0.12, 0.09)),
    ),
    "bear": _quadruped(legs=0.24, deep=0.28, length=0.52, head=0.23, neck=0.02, tail=0.06),
    # The mane is behind the head and bows with it.
    "lion": (
        oval((190, 105, 40), 0.4, -0.84, 0.36, 0.34, Joint(0.28, -0.7, "nod", 0.7)),
        *_quadruped(legs=0.3, length=0.48, deep=0.17, neck=0.16, tail=0.5),
    ),
    "elephant": (
        *(limb(DARK, (x, -0.4), (x, 0), 0.16, Joint(x, -0.4, "leg", by))
          for x, by in ((-0.4, 0.35), (-0.18, -0.35), (0.18, 0.35), (0.36, -0.35))),
        oval(BODY, -0.05, -0.56, 0.52, 0.3),
        oval(MARK, -0.1, -0.76, 0.22, 0.11),
        oval(BODY, 0.45, -0.68, 0.24, 0.24, _ELEPHANT_NECK),
        # The trunk lifts where others raise an arm.
        limb(BODY, (0.62, -0.62), (0.74, -0.12), 0.13, Joint(0.62, -0.62, "reach", -1.6)),
        oval(DARK, 0.34, -0.68, 0.17, 0.24, _ELEPHANT_NECK),
        shape(WHITE, (0.56, -0.5), (0.78, -0.42), (0.58, -0.44), joint=_ELEPHANT_NECK),
        oval(INK, 0.56, -0.74, 0.03, 0.035, _ELEPHANT_NECK),
    ),
    "rabbit": _quadruped(ears="long", legs=0.16, deep=0.22, length=0.34, neck=0.1, tail=0.08),
    "mouse": _quadruped(
        legs=0.12, deep=0.2, length=0.44, head=0.17, neck=0.1, tail=0.6, snout=0.1
    ),
    "monkey": _upright(0.3, "round", SKIN),
    "kangaroo": _upright(0.42, "long"),
    "bird": (
        limb(BEAK, (-0.02, -0.2), (-0.02, 0), 0.04, Joint(0, -0.2, "leg", 0.5)),
        limb(BEAK, (0.08, -0.2), (0.08, 0), 0.04, Joint(0.08, -0.2, "leg", -0.5)),
        shape(DARK, (-0.3, -0.4), (-0.72, -0.56), (-0.68, -0.3)),
        oval(BODY, 0, -0.4, 0.4, 0.24),
        oval(MARK, 0.2, -0.36, 0.14, 0.15),
        oval(BODY, 0.32, -0.64, 0.19, 0.18, _BIRD_NECK),
        shape(BEAK, (0.48, -0.7), (0.72, -0.6), (0.48, -0.55), joint=_BIRD_NECK),
        # The wing is drawn last but the eye, since it beats in front of the body.
        shape(LIGHT, (-0.24, -0.46), (0.16, -0.48), (-0.2, -1.0),
              joint=Joint(0, -0.46, "flap", 0.8)),
        oval(INK, 0.38, -0.68, 0.035, 0.04, _BIRD_NECK),
    ),
    "penguin": (
        oval(BEAK, -0.1, -0.03, 0.12, 0.05, Joint(-0.1, -0.2, "leg", 0.4)),
        oval(BEAK, 0.12, -0.03, 0.12, 0.05, Joint(0.12, -0.2, "leg", -0.4)),
        oval(BODY, 0, -0.42, 0.28, 0.4),
        oval(WHITE, 0.06, -0.38, 0.19, 0.31),
        limb(DARK, (-0.2, -0.62), (-0.36, -0.28), 0.11, Joint(-0.2, -0.62, "reach", 1.4)),
        limb(DARK, (0.22, -0.62), (0.36, -0.28), 0.11, Joint(0.22, -0.62, "reach", -1.4)),
        rect(MARK, -0.22, -0.72, 0.24, -0.62),
        oval(BODY, 0.02, -0.83, 0.19, 0.16, _PENGUIN_NECK),
        shape(BEAK, (0.16, -0.88), (0.38, -0.8), (0.16, -0.76), joint=_PENGUIN_NECK),
        oval(WHITE, 0.09, -0.86, 0.045, 0.05, _PENGUIN_NECK),
        oval(INK, 0.1, -0.86, 0.025, 0.03, _PENGUIN_NECK),
    ),
    "fish": (
        shape(DARK, (-0.4, -0.4), (-0.8, -0.72), (-0.72, -0.4), (-0.8, -0.08),
              joint=Joint(-0.4, -0.4, "flap", 0.4)),
        shape(DARK, (-0.2, -0.62), (0.1, -0.96), (0.2, -0.62)),
        oval(BODY, 0, -0.4, 0.52, 0.3),
        rect(MARK, -0.14, -0.66, 0.06, -0.14),
        shape(LIGHT, (0.0, -0.36), (-0.2, -0.1), (0.16, -0.3), joint=Joint(0, -0.36, "nod", 0.8)),
        oval(WHITE, 0.3, -0.47, 0.08, 0.08),
        oval(INK, 0.32, -0.47, 0.04, 0.045),
    ),
    "whale": (
        shape(BODY, (-0.6, -0.3), (-1.1, -0.72), (-0.98, -0.36), (-1.12, -0.1),
              joint=Joint(-0.6, -0.3, "flap", 0.3)),
        oval(BODY, 0, -0.34, 0.84, 0.33),
        oval(WHITE, 0.16, -0.2, 0.56, 0.16),
        oval(MARK, -0.3, -0.44, 0.17, 0.13),
        shape(DARK, (0.1, -0.2), (-0.14, 0.06), (0.3, -0.16), joint=Joint(0.1, -0.2, "reach", 0.9)),
        oval(INK, 0.56, -0.42, 0.045, 0.05),
    ),
    "butterfly": (
        oval(BODY, -0.34, -0.7, 0.32, 0.26, _BUTTERFLY_LEFT),
        oval(BODY, 0.34, -0.7, 0.32, 0.26, _BUTTERFLY_RIGHT),
        oval(DARK, -0.26, -0.28, 0.22, 0.2, _BUTTERFLY_LEFT),
        oval(DARK, 0.26, -0.28, 0.22, 0.2, _BUTTERFLY_RIGHT),
        oval(MARK, -0.36, -0.7, 0.15, 0.13, _BUTTERFLY_LEFT),
        oval(MARK, 0.36, -0.7, 0.15, 0.13, _BUTTERFLY_RIGHT),
        limb(INK, (0, -0.92), (0, -0.14), 0.11),
    ),
    "insect": (
        *(limb(INK, (x, -0.3), (x + dx, 0), 0.05, Joint(x, -0.3, "leg", by))
          for x, dx, by in ((-0.26, -0.2, 0.5), (-0.1, -0.1, -0.5), (0.08, 0.1, 0.5),
                            (0.24, 0.2, -0.5))),
        oval(GLASS, -0.16, -0.7, 0.17, 0.32, Joint(-0.05, -0.46, "flap", -0.7)),
        oval(GLASS, 0.08, -0.7, 0.15, 0.3, Joint(0.05, -0.46, "flap", 0.7)),
        oval(BODY, -0.08, -0.36, 0.46, 0.22),
        rect(MARK, -0.24, -0.55, -0.08, -0.18),
        oval(INK, 0.42, -0.4, 0.18, 0.17, Joint(0.3, -0.38, "nod", 0.6)),
        oval(WHITE, 0.5, -0.45, 0.05, 0.05, Joint(0.3, -0.38, "nod", 0.6)),
    ),
    "turtle": (
        *(limb(LEAF_SKIN, (x, -0.24), (x, 0), 0.17, Joint(x, -0.24, "leg", by))
          for x, by in ((-0.4, 0.5), (-0.2, -0.5), (0.22, 0.5), (0.42, -0.5))),
        limb(LEAF_SKIN, (0.4, -0.28), (0.74, -0.46), 0.2, _TURTLE_NECK),
        oval(LEAF_SKIN, 0.76, -0.48, 0.18, 0.15, _TURTLE_NECK),
        shape(BODY, (-0.62, -0.2), (-0.4, -0.62), (0, -0.78), (0.4, -0.62), (0.62, -0.2)),
        oval(MARK, 0, -0.5, 0.21, 0.16),
        rect(DARK, -0.64, -0.26, 0.64, -0.16),
        oval(INK, 0.82, -0.52, 0.035, 0.04, _TURTLE_NECK),
    ),
    "snake": (
        # Two halves that beat against each other stand for winding.
        oval(BODY, -0.5, -0.13, 0.42, 0.13, Joint(0, -0.1, "flap", 0.1)),
        oval(DARK, 0, -0.16, 0.4, 0.15, Joint(0, -0.1, "flap", -0.12)),
        limb(BODY, (0.3, -0.1), (0.5, -0.66), 0.22, Joint(0.3, -0.1, "nod", 0.5)),
        oval(MARK, 0.0, -0.2, 0.17, 0.12, Joint(0, -0.1, "flap", -0.12)),
        oval(BODY, 0.58, -0.72, 0.22, 0.14, Joint(0.3, -0.1, "nod", 0.5)),
        limb((220, 40, 60), (0.76, -0.7), (0.96, -0.66), 0.04, Joint(0.3, -0.1, "nod", 0.5)),
        oval(INK, 0.62, -0.77, 0.035, 0.04, Joint(0.3, -0.1, "nod", 0.5)),
    ),
    "dragon": (
        shape(DARK, (-0.3, -0.3), (-1.0, -0.5), (-0.3, -0.12),
              joint=Joint(-0.3, -0.2, "flap", 0.25)),
        limb(DARK, (-0.2, -0.26), (-0.22, 0), 0.15, Joint(-0.2, -0.26, "leg", 0.5)),
        limb(DARK, (0.16, -0.26), (0.18, 0), 0.15, Joint(0.16, -0.26, "leg", -0.5)),
        oval(BODY, -0.02, -0.34, 0.4, 0.24),
        oval(MARK, 0.12, -0.28, 0.18, 0.14),
        limb(BODY, (0.24, -0.4), (0.5, -0.8), 0.2, _DRAGON_NECK),
        shape(BODY, (0.4, -0.98), (0.62, -0.96), (0.92, -0.78), (0.5, -0.7), joint=_DRAGON_NECK),
        shape(LIGHT, (-0.1, -0.46), (-0.66, -1.02), (0.1, -0.8), (0.1, -0.46),
              joint=Joint(0, -0.46, "flap", 0.5)),
        oval(INK, 0.6, -0.87, 0.035, 0.04, _DRAGON_NECK),
    ),
}  # fmt: skip
