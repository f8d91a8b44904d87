"""The small model that ships: the world it shows, its training, its decoder."""

from harness.small_model.codec import KeyframeDecoder
from harness.small_model.scenes.text import SceneText
from harness.small_model.world.text import WorldText

__all__ = ["KeyframeDecoder", "SceneText", "WorldText"]
