"""The absence of a judge: every score is null, and the reason says what to type."""

from __future__ import annotations

from collections.abc import Sequence

from harness.scoring.judge.judge import Judge, Verdict
from harness.scoring.metrics.metric import Frames, Unavailable

NO_JUDGE = (
    "no judge is set: type judge=openai judge.base_url=https://host/v1 judge.model=<name> for an "
    "endpoint, or judge=local judge.path=<folder> for a model on this machine"
)


class Nobody(Judge):
    """Placeholder that is used if no judge is configured."""

    # A judge like any other instead of None: metrics ask it, and rows get its reason.
    def identity(self) -> str:
        """Return "no judge"."""
        return "no judge"

    def missing(self) -> str | None:
        """Return the message that says what to type."""
        return NO_JUDGE

    def completed(
        self, events: Sequence[str], frames_THWC: Frames, vote: int = 0, device: str = "cpu"
    ) -> Verdict:
        """Raise Unavailable."""
        raise Unavailable(NO_JUDGE)
