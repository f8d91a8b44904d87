"""The prediction for one method, and sums of its phases. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.results.observation import PHASES

Sizes = dict[str, int | None]  # bytes by component; None: unknown


@dataclass(frozen=True)
class Forecast:
    """The prediction for one method. Unknown numbers are None; `reasons` says why.

    num_frames: latent frames. video_s: length of the video in seconds.
    stored, stored_bytes: history at the end of the video, by component and in total.
    allocated_bytes: memory allocated for the largest history during the video.
    frames_full: frames in all tiers except the pooled one, mean over layers; single tokens count
    as the corresponding share of frames. frames_pooled: frames held as one token.
    ratio_full_length: BF16 bytes of the whole video over stored bytes; null if none are stored.
    ratio_same_frames: BF16 bytes of the frames that are still attended over stored bytes.
    best, published: bytes by phase and component under the two contracts
    (`harness.planning.memory.Contract`). Their peaks do not include text.
    dit_s: seconds of all passes of the network, without text and decoding.
    memory_gib, longest_frames, longest_s: the longest video within this memory.
    """

    # Plain values only: a row is printed as JSON, and noted and read again by later plans.
    method: str
    model: str
    suite: str
    attention: str
    contract: str
    num_frames: int
    video_s: float
    stored: dict[str, int]
    stored_bytes: int
    allocated_bytes: int
    frames_full: float
    frames_pooled: float
    ratio_full_length: float | None
    ratio_same_frames: float | None
    best: dict[str, Sizes]
    best_peak_bytes: int | None
    published: dict[str, Sizes]
    published_peak_bytes: int | None
    dit_s: float | None
    memory_gib: float | None
    longest_frames: int | None
    longest_s: float | None
    reasons: tuple[str, ...]


def total(sizes: Sizes) -> int | None:
    """Return the sum in bytes; None if a part is unknown."""
    # A sum without the unknown part would look like a plan that fits.
    known = [size for size in sizes.values() if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def peak(phases: Mapping[str, Sizes]) -> int | None:
    """Return the largest total of denoise, commit and decode, in bytes; None if unknown."""
    # Without text, as in measured rows (`peak_bytes`): its encoder is freed before the passes.
    return largest(*(phases[name] for name in PHASES if name != "text"))


def largest(*phases: Sizes) -> int | None:
    """Return the total of the largest phase in bytes; None if one is unknown."""
    totals = [total(sizes) for sizes in phases]
    known = [size for size in totals if size is not None]
    return max(known) if len(known) == len(totals) else None
