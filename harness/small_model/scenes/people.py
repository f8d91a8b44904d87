"""Figures of people and of things shaped like people."""

from __future__ import annotations

from harness.small_model.scenes.parts import (
    BODY,
    DARK,
    INK,
    LIGHT,
    MARK,
    SKIN,
    STEEL,
    WHITE,
    Joint,
    Part,
    limb,
    oval,
    rect,
    shape,
)

Figure = tuple[Part, ...]
HAIR = (92, 60, 40)


def person(skirt: bool = False) -> Figure:
    """Return a person: legs, a coat in the thing's colour, a scarf with the mark, a head."""
    # Joints are where limbs begin, so that they turn there.
    hips, neck = -0.42, -0.72
    body = (
        shape(BODY, (-0.08, neck), (0.08, neck), (0.2, -0.2), (-0.2, -0.2))
        if skirt
        else shape(BODY, (-0.13, neck), (0.13, neck), (0.12, hips + 0.06), (-0.12, hips + 0.06))
    )
    # From back to front: the far arm is behind the body, the near one in front of it. The two legs
    # swing against each other.
    return (
        limb(DARK, (-0.05, hips), (-0.07, 0), 0.12, Joint(-0.05, hips, "leg", -0.6)),
        limb(DARK, (0.05, hips), (0.07, 0), 0.12, Joint(0.05, hips, "leg", 0.6)),
        limb(BODY, (-0.11, neck), (-0.2, -0.4), 0.08, Joint(-0.11, neck, "arm", 1.0)),
        body,
        # The near arm is lighter, so that it shows in front of the coat, and it is the one that
        # lifts.
        limb(LIGHT, (0.11, neck), (0.2, -0.4), 0.08, Joint(0.11, neck, "reach", -2.2)),
        rect(MARK, -0.12, -0.74, 0.12, -0.62),
        # A rim of hair shows behind the face.
        oval(HAIR, -0.015, -0.87, 0.14, 0.135, Joint(0, neck, "nod", 0.5)),
        oval(SKIN, 0.02, -0.85, 0.11, 0.115, Joint(0, neck, "nod", 0.5)),
        oval(INK, 0.07, -0.87, 0.018, 0.022, Joint(0, neck, "nod", 0.5)),
    )


# Joints at the neck, so that hats and hair bow with the head.
_CHILD_NECK = Joint(0, -0.6, "nod", 0.5)
_ROBOT_NECK = Joint(0, -0.7, "nod", 0.4)
_SNOWMAN_NECK = Joint(0, -0.66, "nod", 0.4)
_ASTRONAUT_NECK = Joint(0, -0.7, "nod", 0.4)
_HAT = Joint(0, -0.72, "nod", 0.5)


FIGURES: dict[str, Figure] = {
    "man": (*person(), rect(DARK, -0.12, -1.04, 0.12, -0.94, _HAT)),
    # Long hair lies behind the person, so it comes first.
    "woman": (
        limb(HAIR, (-0.1, -0.9), (-0.15, -0.6), 0.11, _HAT),
        *person(skirt=True),
    ),
    "child": (
        limb(DARK, (-0.06, -0.3), (-0.08, 0), 0.13, Joint(-0.06, -0.3, "leg", -0.6)),
        limb(DARK, (0.06, -0.3), (0.08, 0), 0.13, Joint(0.06, -0.3, "leg", 0.6)),
        limb(BODY, (-0.13, -0.56), (-0.24, -0.3), 0.09, Joint(-0.13, -0.56, "arm", 1.0)),
        shape(BODY, (-0.14, -0.6), (0.14, -0.6), (0.14, -0.24), (-0.14, -0.24)),
        limb(LIGHT, (0.13, -0.56), (0.24, -0.3), 0.09, Joint(0.13, -0.56, "reach", -2.2)),
        rect(MARK, -0.14, -0.48, 0.14, -0.36),
        oval(SKIN, 0, -0.78, 0.2, 0.19, _CHILD_NECK),
        shape(HAIR, (-0.21, -0.76), (-0.14, -0.98), (0.1, -1.0), (0.19, -0.86), joint=_CHILD_NECK),
        oval(INK, 0.1, -0.77, 0.024, 0.03, _CHILD_NECK),
    ),
    "chef": (
        *person(),
        rect(WHITE, -0.09, -0.58, 0.11, -0.3),
        oval(WHITE, 0, -1.08, 0.18, 0.1, _HAT),
        rect(WHITE, -0.12, -1.08, 0.12, -0.93, _HAT),
    ),
    "astronaut": (
        rect(STEEL, -0.26, -0.72, -0.08, -0.32),
        limb(WHITE, (-0.08, -0.36), (-0.1, 0), 0.17, Joint(-0.08, -0.36, "leg", -0.5)),
        limb(WHITE, (0.08, -0.36), (0.1, 0), 0.17, Joint(0.08, -0.36, "leg", 0.5)),
        limb(WHITE, (-0.15, -0.64), (-0.28, -0.36), 0.13, Joint(-0.15, -0.64, "arm", 0.8)),
        oval(WHITE, 0, -0.5, 0.2, 0.24),
        rect(BODY, -0.16, -0.56, 0.16, -0.42),
        limb(WHITE, (0.15, -0.64), (0.28, -0.36), 0.13, Joint(0.15, -0.64, "reach", -2.2)),
        rect(MARK, -0.19, -0.4, 0.19, -0.32),
        oval(WHITE, 0.01, -0.83, 0.21, 0.2, _ASTRONAUT_NECK),
        oval(BODY, 0.07, -0.83, 0.14, 0.12, _ASTRONAUT_NECK),
    ),
    "robot": (
        limb(STEEL, (-0.11, -0.3), (-0.11, 0), 0.14, Joint(-0.11, -0.3, "leg", -0.5)),
        limb(STEEL, (0.11, -0.3), (0.11, 0), 0.14, Joint(0.11, -0.3, "leg", 0.5)),
        limb(STEEL, (-0.22, -0.62), (-0.32, -0.3), 0.1, Joint(-0.22, -0.62, "arm", 0.8)),
        rect(BODY, -0.24, -0.68, 0.24, -0.26),
        limb(STEEL, (0.22, -0.62), (0.32, -0.3), 0.1, Joint(0.22, -0.62, "reach", -2.2)),
        rect(MARK, -0.13, -0.6, 0.13, -0.42),
        rect(LIGHT, -0.2, -0.98, 0.2, -0.72, _ROBOT_NECK),
        limb(STEEL, (0, -0.98), (0, -1.12), 0.05, _ROBOT_NECK),
        oval(INK, -0.06, -0.86, 0.045, 0.05, _ROBOT_NECK),
        oval(INK, 0.11, -0.86, 0.045, 0.05, _ROBOT_NECK),
    ),
    "snowman": (
        oval(WHITE, 0, -0.24, 0.3, 0.25),
        oval(WHITE, 0, -0.58, 0.22, 0.2),
        limb(HAIR, (-0.18, -0.6), (-0.42, -0.74), 0.05, Joint(-0.18, -0.6, "arm", 0.6)),
        limb(HAIR, (0.18, -0.6), (0.42, -0.56), 0.05, Joint(0.18, -0.6, "reach", -1.2)),
        rect(MARK, -0.18, -0.76, 0.18, -0.66),
        oval(WHITE, 0, -0.85, 0.17, 0.15, _SNOWMAN_NECK),
        rect(BODY, -0.2, -0.99, 0.2, -0.93, _SNOWMAN_NECK),
        rect(BODY, -0.13, -1.14, 0.13, -0.97, _SNOWMAN_NECK),
        shape((245, 130, 40), (0.04, -0.88), (0.3, -0.83), (0.04, -0.8), joint=_SNOWMAN_NECK),
        oval(INK, 0.06, -0.9, 0.022, 0.025, _SNOWMAN_NECK),
        oval(INK, 0, -0.3, 0.03, 0.03),
    ),
    "ghost": (
        shape(BODY, (-0.3, 0), (-0.3, -0.6), (-0.2, -0.86), (0, -0.98), (0.2, -0.86), (0.3, -0.6),
              (0.3, 0), (0.2, -0.12), (0.1, 0), (0, -0.12), (-0.1, 0), (-0.2, -0.12)),
        limb(LIGHT, (0.22, -0.5), (0.48, -0.44), 0.13, Joint(0.22, -0.5, "reach", -1.2)),
        limb(LIGHT, (-0.22, -0.5), (-0.48, -0.44), 0.13, Joint(-0.22, -0.5, "arm", 0.8)),
        oval(MARK, 0, -0.4, 0.13, 0.11),
        oval(INK, -0.04, -0.72, 0.05, 0.07),
        oval(INK, 0.14, -0.72, 0.05, 0.07),
    ),
}  # fmt: skip
