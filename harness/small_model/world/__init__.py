"""A procedural world of captioned videos: what trains the small model and what measures it."""

from harness.small_model.world.clip import Clip, clip
from harness.small_model.world.interpret import interpret
from harness.small_model.world.scene import Scene, Thing
from harness.small_model.world.text import WorldText

__all__ = ["Clip", "Scene", "Thing", "WorldText", "clip", "interpret"]
