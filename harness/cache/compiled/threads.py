"""Runs a compiled loop in several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


def in_threads(
    loop: Callable[..., None], arguments: tuple[Any, ...], tasks: int, number: int
) -> None:
    """Call `loop(*arguments, first, last)` for equal shares of the tasks, one in each thread.

    number: of threads, this one included; at least one.
    """
    # Plain threads: numba's own pool would compete with torch's, and some of its kinds do not
    # survive a fork. The loops hold no lock of Python's.
    # Neighbouring tasks go to one thread, as they are neighbours in memory.
    bounds = [tasks * i // number for i in range(number + 1)]
    others = [
        threading.Thread(target=loop, args=(*arguments, *bounds[i : i + 2]))
        for i in range(1, number)
    ]
    # This thread takes the first share instead of waiting.
    for thread in others:
        thread.start()
    loop(*arguments, *bounds[:2])
    for thread in others:
        thread.join()
