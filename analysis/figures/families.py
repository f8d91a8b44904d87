"""Finds the family of a method by its name, for rows without a readable request."""

from __future__ import annotations

from functools import cache
from pathlib import PurePosixPath

import yaml

from harness.config.compose import choices

GROUP = "/method/"


@cache
def family_of(method: str) -> str:
    """Return the family in a method's file or in the file that it extends.

    A method without a file is a family of its own.
    """
    return _said(method) or method


def _said(method: str) -> str:
    path = choices("method").get(method)
    if path is None:
        return ""
    file = yaml.safe_load(path.read_text()) or {}
    if "family" in file:
        return str(file["family"])
    for base in reversed(file.get("defaults", [])):
        if not isinstance(base, str) or base == "_self_":
            continue
        name = base.partition("@")[0]
        absolute = name.removeprefix(GROUP) if name.startswith(GROUP) else ""
        found = _said(absolute or str(PurePosixPath(method).parent / name))
        if found:
            return found
    return ""
