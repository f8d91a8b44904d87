"""The procedural world of captioned videos that trains `model=small` and measures its videos."""

from harness.small_model.world.clip import Clip, clip
from harness.small_model.world.interpret import interpret
from harness.small_model.world.scene import Scene, Thing
from harness.small_model.world.text import WorldText

__all__ = ["Clip", "Scene", "Thing", "WorldText", "clip", "interpret"]
