"""Small geometries and networks that the tests share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from harness.api import Exact, Method
from harness.cache.attention.auto import Auto
from harness.cache.attention.base import Backend
from harness.cache.layer import Context
from harness.cache.session import Session
from harness.checks import walk
from harness.checks.tiny_network import CPU, GRID, network, spec
from harness.checks.tiny_network import text_kv as text
from harness.commands.run import CONF
from harness.config import compose
from harness.config.compose import method_files
from harness.models.wan import Wan
from harness.sampling.noise import SeededNoise
from harness.sampling.passes import NullObserver
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import Schedule
from methods.retention.keep import KeepAll

__all__ = ["BF16", "CONF", "CPU", "GRID", "configured", "generate", "live_bytes", "method_names"]
__all__ += ["method_of", "network", "spec", "text"]

BF16 = Method(key=Exact(), value=Exact(), retention=KeepAll())


def generate(
    method: Method,
    num_frames: int = 12,
    net: Wan | None = None,
    seed: int = 0,
    backend: Backend | None = None,
    **changes: Any,
) -> tuple[torch.Tensor, Session]:
    """Generate a short video through the cache; return latents and the session."""
    net = net or network()
    shape = spec(**changes)
    method.check(shape)
    sampler = Sampler(net, Schedule(), shape.chunk_frames)
    backend = (backend or Auto()).resolve(shape, method, CPU)
    session = Session(shape, method, backend, num_frames, CPU)
    noise = SeededNoise(seed, (num_frames, 4, 2 * GRID[0], 2 * GRID[1]))
    chunks = sampler.sample(session, text(net, seed), noise, num_frames, NullObserver())
    return torch.cat(list(chunks), dim=1), session


def configured(*words: str, **where: Any) -> dict[str, Any]:
    """Return a resolved configuration that the caller may change; own files are composed once.

    It has no metrics unless `words` name some: composing them takes a third of the time.
    """
    if not any(word.startswith("metrics") for word in words):
        words = (*words, "metrics=[]")
    # The cached configuration is shared between tests, hence the copy.
    return compose.configured(*words, **where) if where else deepcopy(_composed(words))


@cache
def _composed(words: tuple[str, ...]) -> dict[str, Any]:
    return compose.configured(*words)


def method_of(name: str, *overrides: str) -> Method:
    """Return the method of a file as the small model has it; Hydra applies overrides."""
    if not overrides and "/" not in name:
        return read_method(name, short_tail=False)
    method: Method = instantiate(configured(f"method={name}", *overrides)["method"])
    return method


@cache  # methods are frozen, so tests can share them
def read_method(name: str, short_tail: bool = True) -> Method:
    """Return the method of a file without Hydra, for a model with short tails of groups or not.

    To compose a whole configuration takes ten times as long. test_methods.py holds what is read
    here against what Hydra composes.
    """
    method: Method = instantiate(merged_method(name, short_tail))
    return method


def merged_method(name: str, short_tail: bool) -> Any:
    """Return the resolved content of a file of conf/method and of those it starts from."""
    model = {"short_tail": short_tail, "chunk_frames": 3}
    config = OmegaConf.create({"model": model, "method": _merged(name)})
    return OmegaConf.to_object(config)["method"]  # type: ignore[index]


@cache
def _merged(name: str) -> DictConfig:
    own = OmegaConf.load(CONF / "method" / f"{name}.yaml")
    assert isinstance(own, DictConfig)
    parents = [parent for parent in own.pop("defaults", []) if parent != "_self_"]
    merged = OmegaConf.merge(*(_merged(parent) for parent in parents), own)
    assert isinstance(merged, DictConfig)
    return merged


def method_names() -> list[str]:
    """List every file of conf/method, so that a new one is a test case without registration.

    Methods of the published study choose another integration; see `published_names`.
    """
    return [name for name in method_files() if "/" not in name]


def tiered_names(names: Iterable[str]) -> list[Any]:
    """Mark as slow the methods that differ from another one in numbers only: same code, run again.

    Such a file names no class, only the file that it starts from.
    """
    slow, files = pytest.mark.slow, method_files()
    return [
        pytest.param(name, marks=[slow] * ("_target_" not in files[name].read_text()))
        for name in names
    ]


def one_of_each_class(names: Iterable[str]) -> list[Any]:
    """Mark as slow the methods all of whose classes an earlier one has, alone or beside others.

    For tests of what uses methods, such as a backend or the planner; `tiered_names` is for tests of
    the methods themselves.
    """
    met: set[str] = set()
    found = []
    for name in names:
        classes = set(
            re.findall(r"'_target_': '([\w.]+)'", str(OmegaConf.to_container(_merged(name))))
        )
        found.append(pytest.param(name, marks=[pytest.mark.slow] * (classes <= met)))
        met |= classes
    return found


def published_names() -> list[str]:
    """List every file of conf/method/published."""
    return [name for name in method_files() if name.startswith("published/")]


def live_bytes(session: Session) -> int:
    """Return the bytes of all tensors in a session's layers, found by walking its objects."""
    return walk.live_bytes(session._layers, leave_out=(Context,))
