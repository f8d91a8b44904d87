"""Places by name: backgrounds of a few flat shapes each."""

from __future__ import annotations

from harness.small_model.scenes import countryside, indoors, wilds

PLACES = indoors.PLACES | countryside.PLACES | wilds.PLACES
