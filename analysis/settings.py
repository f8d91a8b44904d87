"""Checks by stored settings whether a run does the same work as given settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from hydra.utils import instantiate

from analysis.section import Method
from harness.api import Method as Parts
from harness.config import stored
from harness.config.compose import composing
from harness.models.preset import VideoModel

CHANGED = ("loop", "window", "guidance")  # settings of a model that decide which passes run


def does(method: Method, model: str, words: Sequence[str]) -> bool:
    """Return whether a run has the passes, reach, guidance and method of these settings.

    The run's network may have another size. False if its request is unknown.

    model: name of a preset. words: settings as one types them, `method=` among them.
    Raises  UserError: the run names a class that is not allowed.
    """
    # Without its request a run may be anything, and a wrong match would print a wrong number.
    if method.request is None:
        return False
    # As built objects, so that a default equals the same value when it is typed.
    wanted, parts = built(model, tuple(words))
    theirs = stored.build(method.request.model, str(method.folder))
    if any(getattr(theirs, name) != getattr(wanted, name) for name in CHANGED):
        return False
    # Methods are frozen dataclasses, so equal objects are equal settings, whatever file named them.
    return bool(stored.build(method.request.method, str(method.folder)) == parts)


@cache
def built(model: str, words: Sequence[str]) -> tuple[VideoModel, Parts]:
    """Build a preset and a method with these settings, without weights."""
    # Composing reads many files, and a table asks for the same settings once for every run: hence
    # the cache. Metrics decide nothing about the work of a run, so none is composed.
    with composing() as composer:
        given: Mapping[str, Any] = composer.resolved([f"model={model}", *words, "metrics=[]"])
    return instantiate(given["model"]), instantiate(given["method"])
