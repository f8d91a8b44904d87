"""Describes scenes in plain English, like prompts; `interpret` parses the same scene from them."""

from __future__ import annotations

from harness.small_model.scenes.scene import EVENTS_S, Scene, Thing
from harness.small_model.scenes.words import spoken

# Prepositions by hand: "in a beach" would be read all the same, but prompts do not say so.
_WHERE = {
    "room": "in a room",
    "kitchen": "in a kitchen",
    "study": "in a study",
    "hall": "in a hall",
    "shop": "in a shop",
    "street": "in a street",
    "road": "on a road",
    "field": "in a field",
    "garden": "in a garden",
    "forest": "in a forest",
    "river": "by a river",
    "beach": "on a beach",
    "sea": "on the sea",
    "underwater": "underwater",
    "mountain": "in the mountains",
    "snow": "in the snow",
    "desert": "in the desert",
    "sky": "high in the sky, among the clouds",
    "space": "in space",
    "cave": "in a cave",
}
_WHEN = {"night": "at night", "dusk": "at dusk", "dawn": "at dawn"}
_WEATHER = {"rain": "in the rain", "snowfall": "in snowfall", "fog": "in fog"}
_CAMERA = {
    "left": "the camera pans left",
    "right": "the camera pans right",
    "in": "the camera zooms in",
    "out": "the camera zooms out",
}
_BEGINS = ("", "then ", "finally ")


def describe(scene: Scene) -> str:
    """Return one sentence with the place, the time and the actions of a scene, in order."""
    # Day and clear weather are what `interpret` takes unless told otherwise, so they go unsaid.
    where = [_WHERE[scene.place], _WHEN.get(scene.light), _WEATHER.get(scene.weather)]
    parts = [" ".join(word for word in where if word)]
    for part in range(len(EVENTS_S)):
        clauses = [clause for thing in scene.things if (clause := _clause(thing, part))]
        if clauses:
            parts.append(_BEGINS[part] + " and ".join(clauses))
        elif part + 1 < len(EVENTS_S) and any(_clause(t, part + 1) for t in scene.things):
            # `interpret` counts parts by "then" and "finally", so an empty part is named too.
            parts.append(_BEGINS[part].strip())
    if scene.camera != "still":
        parts.append(_CAMERA[scene.camera])
    text = ", ".join(part for part in parts if part)
    return text[0].upper() + text[1:] + "."


def _clause(thing: Thing, part: int) -> str | None:
    """Return the clause about a thing at the start of a part, or None if nothing changes."""
    act = thing.acts[part]
    # A thing is introduced in the part in which it first appears.
    since = next((p for p, each in enumerate(thing.acts) if each.action != "away"), 0)
    if part < since:
        return None
    verb = spoken("action", act.action)
    if part == since:
        words = [
            spoken("size", thing.size),
            spoken("colour", act.colour),
            spoken("kind", thing.kind),
        ]
        # Size, colour and kind stand before the verb, where `interpret` looks for them.
        return " ".join(["an" if words[0][0] in "aeiou" else "a", *words, verb])
    before = thing.acts[part - 1]
    # A change of colour that nobody sees goes unsaid.
    recoloured = act.colour != before.colour and act.action != "away"
    changes = [f"becomes {spoken('colour', act.colour)}"] if recoloured else []
    changes += [verb] if act.action != before.action else []
    return f"the {spoken('kind', thing.kind)} {' and '.join(changes)}" if changes else None
