"""Sampling of a video: noise schedule, order of passes, solvers, sampler, reuse and guidance."""

from harness.sampling.diffusion_forcing import DiffusionForcing
from harness.sampling.guidance import Guidance
from harness.sampling.loop import Loop
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import Schedule, UniPCSchedule

__all__ = ["DiffusionForcing", "Guidance", "Loop", "Sampler", "Schedule", "UniPCSchedule"]
