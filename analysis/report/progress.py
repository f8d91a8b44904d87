"""Prints progress and remaining time of long work to stderr."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Timer
from typing import TypeVar

T = TypeVar("T")
# Short work prints nothing; stderr, so that stdout holds only the path of the report.
QUIET_S = 2.0  # quiet time at the start, and between lines


@contextmanager
def slow(what: str) -> Iterator[None]:
    """Print what is being done if it takes longer than `QUIET_S`."""
    timer = Timer(QUIET_S, lambda: print(f"report: {what}", file=sys.stderr))
    # A timer that still waits must not keep the process from ending.
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def shown(items: Sequence[T], what: str) -> Iterable[T]:
    """Yield the items, printing progress and the seconds left now and then."""
    start = said = time.perf_counter()
    for done, item in enumerate(items):
        now = time.perf_counter()
        if done and now - said > QUIET_S:
            # As fast as the mean so far; items of one kind take about the same time.
            left = math.ceil((now - start) / done * (len(items) - done))
            print(f"report: {done}/{len(items)} {what}, {left} s left", file=sys.stderr)
            said = now
        yield item
