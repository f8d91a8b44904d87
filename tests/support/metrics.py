"""A metric for tests: the mean grey level of a video."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harness.results.scores import Column, Value
from harness.scoring.metrics.metric import Clip, Metric, check_pair


class Grey(Metric):
    """Mean grey level of the video and of every frame; with a reference, the differences."""

    def __init__(
        self,
        name: str = "grey",
        version: str = "1",
        needs: str | None = None,
        columns: tuple[str, ...] = (),
        against: bool = False,
    ) -> None:
        self.name = name
        self.against_reference = against  # type: ignore[misc]
        self._version, self._needs = version, needs
        self._names = columns or (name, f"{name}_by_frame")

    def columns(self) -> tuple[Column, ...]:
        first, *others = self._names
        own = Column(first, "mean grey level", "levels")
        return (own, *(Column(x, "of every frame", "levels", kind=list[float]) for x in others))

    def version(self) -> str:
        return self._version

    def missing(self) -> str | None:
        return self._needs

    def measure(self, clip: Clip, reference: Clip | None, device: str) -> Mapping[str, Value]:
        levels = clip.frames_THWC.mean((1, 2, 3))
        if self.against_reference:
            levels = levels - check_pair(clip, reference)[1].mean((1, 2, 3))
        return dict(zip(self._names, (float(levels.mean()), levels.tolist()), strict=False))


class Broken(Grey):
    """A metric that raises the given error, or returns NaN and infinite values."""

    def __init__(self, error: Exception | None = None, **settings: str) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self._error = error

    def measure(self, clip: Clip, reference: Clip | None, device: str) -> Mapping[str, Value]:
        if self._error is not None:
            raise self._error
        return {self.name: np.nan, f"{self.name}_by_frame": [1.0, np.inf]}


class Prompted(Grey):
    """The number of characters of the prompt that a metric is given."""

    def measure(self, clip: Clip, reference: Clip | None, device: str) -> Mapping[str, Value]:
        return {self.name: float(len(clip.prompt))}
