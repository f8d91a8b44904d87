"""`check` against methods that end its process, never return, or hide what they hold."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from harness.api import Exact, Packed
from harness.checks.child import judged
from harness.checks.method_contracts import (
    held_outside,
    nothing_is_held_outside_the_cache,
    verdicts,
)
from harness.checks.method_subject import Subject
from tests.support.geometry import configured

KEPT: dict[str, list[Any]] = {"global": [], "numpy": [], "bytes": [], "storage": []}
LATEST: dict[str, Any] = {}
FRAME = 1 * 2 * 3 * 32 * 32  # values that a layer stores of a chunk


def remember() -> tuple[Callable[[Tensor], None], Callable[[], None]]:
    """A closure that keeps what it is given."""
    kept: list[Tensor] = []
    return kept.append, kept.clear


IN_CLOSURE, EMPTY_CLOSURE = remember()


@functools.cache
def cached(number: float, x: Tensor) -> Tensor:
    return x * number


@dataclass(frozen=True)
class Hides(Exact):
    """Exact, but what it encodes stays somewhere else too."""

    where: str = "global"
    attribute: ClassVar[list[Tensor]] = []

    def encode(self, x_BHFTD: Tensor) -> Packed:
        copy = x_BHFTD.clone()
        HIDING[self.where](copy)
        return super().encode(x_BHFTD)


HIDING: dict[str, Callable[[Tensor], Any]] = {
    "global": KEPT["global"].append,
    "latest": lambda x: LATEST.update(x=x),  # of one video only, the last
    "class attribute": Hides.attribute.append,
    "function attribute": lambda x: vars(remember).setdefault("kept", []).append(x),
    "closure": IN_CLOSURE,
    "cache": lambda x: cached(float(x.sum()), x),
    "numpy": lambda x: KEPT["numpy"].append(x.float().numpy().copy()),
    "bytes": lambda x: KEPT["bytes"].append(x.float().numpy().tobytes()),
    "storage": lambda x: KEPT["storage"].append(x.untyped_storage()),
    "constant": lambda x: LATEST.setdefault("table", torch.ones(100)),  # of no video: made once
    "nowhere": lambda x: None,
}


@pytest.fixture(autouse=True)
def _forget() -> Any:
    yield
    for kept in (*KEPT.values(), LATEST, Hides.attribute, vars(remember)):
        kept.clear()
    EMPTY_CLOSURE()
    cached.cache_clear()


def subject(**changes: Any) -> Subject:
    config = configured("method=bf16")
    return Subject("x", {**config, "method": {**config["method"], **changes}})


def hiding(where: str) -> Subject:
    return subject(key={"_target_": "tests.checks.test_check_process.Hides", "where": where})


def test_what_is_hidden_anywhere_is_found() -> None:
    """One search of the process, which takes a second, for methods that hide in all places."""
    methods = [hiding(place) for place in HIDING if place not in ("constant", "nowhere")]
    sizes = {id(thing): size for thing, size in held_outside(methods)}
    hidden = {
        **KEPT,
        "class attribute": Hides.attribute,
        "function attribute": vars(remember)["kept"],
        "closure": IN_CLOSURE.__self__,  # type: ignore[attr-defined]  the list of this `append`
    }
    for place, things in hidden.items():
        assert sum(sizes.pop(id(thing), 0) for thing in things) >= 2 * FRAME, place
    assert sizes.pop(id(LATEST["x"])) > 0
    assert sum(sizes.values()) >= 2 * FRAME  # what is left lies in the cache of a function


def test_the_sentence_says_how_much_is_hidden() -> None:
    (found,) = verdicts(hiding("global"), contracts=[nothing_is_held_outside_the_cache])
    assert not found.held
    assert "bytes that it does not declare" in found.note
    assert int(found.note.split()[3]) >= 2 * FRAME


def test_tables_that_are_made_once_are_not_held_against_a_method() -> None:
    assert held_outside([hiding("constant"), hiding("nowhere")]) == []


@dataclass(frozen=True)
class Dies(Exact):
    """Ends the process, or never returns, when it first stores anything."""

    how: str = "sys.exit(0)"

    def encode(self, x_BHFTD: Tensor) -> Packed:
        exec(f"import os, sys, signal, time; {self.how}")
        return super().encode(x_BHFTD)


ROUND_TRIP = "round trip keeps shape and dtype"


@pytest.mark.slow
def test_deaths_are_verdicts_and_the_next_method_is_examined(tmp_path: Path) -> None:
    deaths = {
        "os._exit(0)": "with exit code 0 and no word",
        "os._exit(3)": "with exit code 3 and no word",
        "os.kill(os.getpid(), signal.SIGSEGV)": "by SIGSEGV",
        "os.abort()": "by SIGABRT",
        "time.sleep(1000)": "took longer than 25 s",
    }
    configs: dict[str, Any] = {
        how: subject(key={"_target_": "tests.checks.test_check_process.Dies", "how": how}).config
        for how in deaths
    }
    found: dict[str, dict[str, Any]] = {}
    for name, verdict in judged("method", configs, 25):
        found.setdefault(name, {})[verdict.name] = verdict
    assert list(found) == list(deaths)
    for how, said in deaths.items():
        assert found[how]["builds"].held
        assert not found[how][ROUND_TRIP].held
        assert said in found[how][ROUND_TRIP].note
        assert list(found[how]) == ["builds", ROUND_TRIP], "the rest cannot be examined"


@pytest.mark.parametrize("how", ["sys.exit(0)", "sys.exit()", "sys.exit('done')", "quit()"])
def test_an_exit_is_no_success(how: str) -> None:
    """The contracts that store something are broken; the child goes on to the others."""
    found = {v.name: v for v in verdicts(subject(
        key={"_target_": "tests.checks.test_check_process.Dies", "how": how}
    ))}  # fmt: skip
    assert found["builds"].held
    assert not found[ROUND_TRIP].held
    assert "it ends the process by sys.exit(" in found[ROUND_TRIP].note
    assert len(found) > 10
