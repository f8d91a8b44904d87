"""Names of pages: readable, safe in any file system, and no two alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

LONGEST = 80  # letters of a slug
RESERVED = {"con", "prn", "aux", "nul", "index"}  # Windows knows these as devices


def slugs(names: Iterable[str]) -> dict[str, str]:
    """A slug for every name; those that would be alike are numbered in the order given."""
    distinct = list(dict.fromkeys(names))
    return dict(zip(distinct, slugs_of(distinct), strict=True))


def slugs_of(names: Sequence[str]) -> list[str]:
    """A slug for each, names that come again included."""
    taken = set(RESERVED)
    found = []
    for name in names:
        plain = re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")[:LONGEST] or "x"
        slug, number = plain, 1
        while slug in taken:
            number += 1
            slug = f"{plain}-{number}"
        taken.add(slug)
        found.append(slug)
    return found


def card(slug: str) -> str:
    """The page of a method, from the report's root."""
    return f"methods/{slug}.html"


def prompt(part: str, index: int) -> str:
    """The page of a prompt, from the report's root."""
    return f"prompts/{part}-{index:03d}.html"
