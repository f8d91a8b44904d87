"""Scatter pictures: names that can be read, ticks that are round."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from analysis.scatter import Panel, Point, picture
from analysis.svg import spread, ticks

RNG = np.random.default_rng(0)


def test_names_keep_their_order_and_distance_within_the_panel() -> None:
    wanted = [*RNG.uniform(0, 100, 30), 0.0, 100.0]
    places = spread(wanted, 3.0, 0.0, 100.0)
    assert np.array_equal(np.argsort(places), np.argsort(wanted))
    assert np.diff(sorted(places)).min() >= 3.0 - 1e-9
    assert min(places) >= 0 and max(places) <= 100
    assert spread([10.0, 50.0], 3.0, 0.0, 100.0) == [10.0, 50.0]
    assert spread([50.0, 50.0], 4.0, 0.0, 100.0) == [48.0, 52.0]
    assert np.diff(spread([1.0] * 11, 50.0, 0.0, 100.0)) == pytest.approx(10)  # no room: closer


@pytest.mark.parametrize(("low", "high"), [(11.0, 27.0), (0.24, 0.83), (-3e-5, 4e-5), (0.0, 6e6)])
def test_ticks_are_round_and_few(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(low <= tick <= high for tick in found)
    steps = np.diff(found)
    assert steps == pytest.approx(np.full(len(steps), steps[0]))


def test_every_point_is_named() -> None:
    points = [Point("A<B", 1, 2, "g"), Point("C", 1, 2, "h", hollow=True)]
    root = ElementTree.fromstring(picture([[Panel("t", "x", "y", points)]]))
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"A<B", "C", "t", "x", "y"} <= set(texts)
    with pytest.raises(ValueError, match="without points"):
        picture([[Panel("t", "x", "y", [])]])
