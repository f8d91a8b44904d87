"""`python -m harness bench`: ratios measured side by side in one run, never in a test."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from harness.isolate import USER_ERROR

BENCHES = ("overhead",)


def main(words: Sequence[str]) -> int:
    """Run the benches named, or all; exit code 2 for an unknown one."""
    unknown = [word for word in words if word not in BENCHES]
    if unknown:
        print(f"error: bench {unknown[0]}: choose {', '.join(BENCHES)}", file=sys.stderr)
        return USER_ERROR
    from harness.bench.overhead import overhead

    overhead()
    return 0
