"""Names pages: readable, safe in any file system, and unique."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

LONGEST = 80  # letters of a slug
# Windows takes the first four for devices, and a server shows `index` in place of its folder.
RESERVED = {"con", "prn", "aux", "nul", "index"}


def slugs(names: Iterable[str]) -> dict[str, str]:
    """Return a slug for every name; equal ones are numbered in order."""
    distinct = list(dict.fromkeys(names))
    return dict(zip(distinct, slugs_of(distinct), strict=True))


def slugs_of(names: Sequence[str]) -> list[str]:
    """Return a slug for each name, repeated names included."""
    taken = set(RESERVED)
    found = []
    for name in names:
        # Lower case, because some file systems do not tell the cases apart. A name without any
        # letter of ours still needs a page.
        plain = re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")[:LONGEST] or "x"
        slug, number = plain, 1
        # Two settings of one method may differ only in signs that a slug drops.
        while slug in taken:
            number += 1
            slug = f"{plain}-{number}"
        taken.add(slug)
        found.append(slug)
    return found


def card(slug: str) -> str:
    """Return the path of a method's page from the report's root."""
    return f"methods/{slug}.html"


def prompt(part: str, index: int) -> str:
    """Return the path of a prompt's page from the report's root."""
    return f"prompts/{part}-{index:03d}.html"
