"""Places by name: backgrounds of a few flat shapes each."""

from __future__ import annotations

from harness.small_model.scenes import countryside, indoors, wilds
from harness.small_model.scenes.patches import Patch

PLACES: dict[str, tuple[Patch, ...]] = {
    # Drawn once: a place is the same in every scene, up to its shift.
    name: tuple(draw())
    for name, draw in {
        "room": indoors.room,
        "kitchen": indoors.kitchen,
        "study": indoors.study,
        "hall": indoors.hall,
        "shop": indoors.shop,
        "cave": indoors.cave,
        "street": countryside.street,
        "road": countryside.road,
        "field": countryside.field,
        "garden": countryside.garden,
        "forest": countryside.forest,
        "river": wilds.river,
        "beach": wilds.beach,
        "sea": wilds.sea,
        "underwater": wilds.underwater,
        "mountain": wilds.mountain,
        "snow": wilds.snow,
        "desert": wilds.desert,
        "space": wilds.space,
        "sky": wilds.air,
    }.items()
}
