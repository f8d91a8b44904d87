"""Runs a compiled loop in several threads."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

Share = Callable[[int], None]  # does one part of the work, given its number


def in_threads(
    loop: Callable[..., None], arguments: tuple[Any, ...], tasks: int, number: int
) -> None:
    """Call `loop(*arguments, first, last)` for equal shares of the tasks, one in each thread.

    number: of threads, this one included; at least one.
    """
    # Neighbouring tasks go to one thread, as they are neighbours in memory.
    bounds = [tasks * i // number for i in range(number + 1)]

    def do(i: int) -> None:
        loop(*arguments, *bounds[i : i + 2])

    if number == 1:
        do(0)
        return
    team = torch_team()
    if team is None or not team.is_whole():
        in_new_threads(do, number)
    else:
        team.run(do, number)


def in_new_threads(do: Share, number: int) -> None:
    """Call `do(0)` to `do(number - 1)`, each in its own thread."""
    # Not in numba's pool: some of its kinds do not survive a fork. The loops hold no lock of
    # Python's.
    others = [threading.Thread(target=do, args=(i,)) for i in range(1, number)]
    # This thread takes the first share instead of waiting.
    for thread in others:
        thread.start()
    do(0)
    for thread in others:
        thread.join()


class TorchTeam:
    """The threads in which torch runs its own operators.

    Between two operators they spin for some milliseconds, so that the next one starts at once. New
    threads would share the cores with them: on two cores, a loop in two new threads takes as long
    as in one.

    library: the OpenMP library that torch uses.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        # How code compiled by GCC starts its threads; LLVM's and Intel's libraries have it too.
        self._kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        self._start = library.GOMP_parallel
        self._start.argtypes = [self._kind, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self._start.restype = None
        self._number_of_this = library.omp_get_thread_num
        self._process = os.getpid()

    def is_whole(self) -> bool:
        """Return whether the threads are there: they do not survive a fork."""
        return os.getpid() == self._process

    def run(self, do: Share, number: int) -> None:
        """Call `do(i)` for i below `number`, each in a thread.

        Raises  what `do` raised, once all threads are done.
        """
        failed: list[BaseException] = []
        begun: list[int] = []

        def share(_: object) -> None:
            # An exception cannot pass through the library, which would go on without a word.
            try:
                i = self._number_of_this()
                begun.append(i)
                do(i)
            except BaseException as error:  # noqa: BLE001
                failed.append(error)

        self._start(self._kind(share), None, number, 0)
        # The library may start fewer threads than it is asked for.
        for i in sorted(set(range(number)) - set(begun)):
            do(i)
        if failed:
            raise failed[0]


@cache
def torch_team() -> TorchTeam | None:
    """Return torch's threads; None where its OpenMP library cannot be found."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:  # not Linux
        return None
    paths = {line.split(maxsplit=5)[5] for line in lines if "omp" in line}
    found = [p for p in paths if Path(p).name.startswith(("libgomp", "libiomp5", "libomp"))]
    # Other packages may have loaded a library of their own.
    for path in sorted(found, key=lambda path: "/torch/" not in path):
        library = ctypes.CDLL(path)
        if hasattr(library, "GOMP_parallel"):
            return TorchTeam(library)
    return None
