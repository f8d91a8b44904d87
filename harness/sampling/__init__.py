"""Sampling of a video: noise schedule, order of passes, solvers, sampler, reuse and guidance."""

from harness.sampling.diffusion_forcing import DiffusionForcing
from harness.sampling.guidance import Guidance, SidePass, ThreePass
from harness.sampling.loop import Loop
from harness.sampling.pipeline import Pipeline
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import MagiSchedule, Schedule, UniPCSchedule

__all__ = [
    "DiffusionForcing",
    "Guidance",
    "Loop",
    "MagiSchedule",
    "Pipeline",
    "Sampler",
    "Schedule",
    "SidePass",
    "ThreePass",
    "UniPCSchedule",
]
