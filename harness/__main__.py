"""`python -m harness`: the verbs; everything else goes to the Hydra entry."""

from __future__ import annotations

import sys


def main() -> int:
    """Dispatch on the first word; heavy imports wait until a verb needs them."""
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    if verb == "ls":
        from harness.listing import main as ls

        return ls(sys.argv[2:])
    if verb == "bench":
        from harness.bench import main as bench

        return bench(sys.argv[2:])
    if verb == "plan":
        from harness.plan import main as plan

        return plan(sys.argv[2:])
    from harness.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
