"""How far it is and how long it still takes, said once it takes longer than a moment."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Timer
from typing import TypeVar

T = TypeVar("T")
QUIET_S = 2.0  # how long nothing is said, and how often something after that


@contextmanager
def slow(what: str) -> Iterator[None]:
    """Says what is done meanwhile, if it takes longer than a moment."""
    timer = Timer(QUIET_S, lambda: print(f"report: {what}", file=sys.stderr))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def shown(items: Sequence[T], what: str) -> Iterable[T]:
    """The same items, with a line now and then: how many are done, and the seconds left."""
    start = said = time.perf_counter()
    for done, item in enumerate(items):
        now = time.perf_counter()
        if done and now - said > QUIET_S:
            left = math.ceil((now - start) / done * (len(items) - done))
            print(f"report: {done}/{len(items)} {what}, {left} s left", file=sys.stderr)
            said = now
        yield item
