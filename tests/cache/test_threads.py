"""Compiled loops run in several threads, and their errors are raised."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from harness.cache.compiled.threads import in_threads, torch_team


def test_every_share_is_done_once_and_in_several_threads() -> None:
    def loop(first: int, last: int) -> None:
        done.append((first, last, threading.get_ident()))

    assert torch_team() is not None  # torch is built with one of the libraries it looks for
    for number in (1, 2, 3):
        done: list[tuple[int, int, int]] = []
        in_threads(loop, (), 7, number)
        assert [i for first, last, _ in sorted(done) for i in range(first, last)] == list(range(7))
        assert len({thread for *_, thread in done}) == number


def test_an_error_in_a_thread_is_raised() -> None:
    def loop(first: int, last: int) -> None:
        if first:
            raise OverflowError("share 2")

    with pytest.raises(OverflowError, match="share 2"):
        in_threads(loop, (), 2, 2)


def test_a_fork_has_threads_of_its_own() -> None:
    in_threads(lambda first, last: None, (), 2, 2)  # now the parent has torch's threads
    child = os.fork()
    if not child:  # no exception may leave the child: it would go on as a second test run
        status = 1
        try:
            signal.alarm(60)
            done: list[int] = []
            in_threads(lambda first, last: done.append(first), (), 2, 2)
            status = int(sorted(done) != [0, 1])
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
