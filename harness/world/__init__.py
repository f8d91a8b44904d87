"""A procedural world of captioned videos: what trains the small model and what measures it."""

from harness.world.clip import Clip, clip
from harness.world.interpret import interpret
from harness.world.scene import Scene, Thing
from harness.world.text import WorldText

__all__ = ["Clip", "Scene", "Thing", "WorldText", "clip", "interpret"]
