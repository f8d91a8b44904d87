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
    return _family_in_file(method) or method


def _family_in_file(method: str) -> str:
    """Return the family in a method's file, else in the files it extends; empty if none has one."""
    # Rows of the drift verb have no request; a method's file of today has to do.
    path = choices("method").get(method)
    if path is None:
        return ""
    file = yaml.safe_load(path.read_text()) or {}
    if "family" in file:
        return str(file["family"])
    # Later entries of a defaults list override earlier ones.
    for base in reversed(file.get("defaults", [])):
        # An entry that is a mapping chooses from another group, which names no family.
        if not isinstance(base, str) or base == "_self_":
            continue
        name = base.partition("@")[0]  # without the package that it goes to
        absolute = name.removeprefix(GROUP) if name.startswith(GROUP) else ""
        found = _family_in_file(absolute or str(PurePosixPath(method).parent / name))
        if found:
            return found
    return ""
