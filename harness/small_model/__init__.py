"""The small models that ship: the world they show, their training, their decoder."""

# Only what a run builds: presets name these classes by this package, so that their files may move
# without changing run ids. The training code is never imported from here.
from harness.small_model.codec import KeyframeDecoder
from harness.small_model.scenes.text import SceneText

__all__ = ["KeyframeDecoder", "SceneText"]
