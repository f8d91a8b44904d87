"""How a video is sampled: schedule, order of passes, noise, what is asked of a network."""

from harness.sampling.guidance import Guidance
from harness.sampling.loop import Loop
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import Schedule

__all__ = ["Guidance", "Loop", "Sampler", "Schedule"]
