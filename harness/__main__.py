"""`python -m harness` and `video-kv-bench`: the verbs; everything else goes to the Hydra entry."""

from __future__ import annotations

import sys

from harness.ending import exit_with
from harness.own import OPTIONS, expose, own_folder


def main() -> int:
    """Dispatch on the first word; heavy imports wait until a verb needs them."""
    folder, words = own_folder(sys.argv[1:])
    verb, *words = words or [""]
    if folder is not None:  # for a verb it may stand before or after it
        expose(folder)
        words += [OPTIONS[0], str(folder)]
    if verb == "ls":
        from harness.listing import main as ls

        return ls(words)
    if verb == "check":
        from harness.check import main as check

        return check(words)
    if verb == "bench":
        from harness.bench import main as bench

        return bench(words)
    if verb == "plan":
        from harness.plan import main as plan

        return plan(words)
    if verb == "fetch":
        from harness.fetch.verb import main as fetch

        return fetch(words)
    if verb == "score":
        from harness.rescore import main as score

        return score(words)
    from harness.cli import main as run

    return run()


def run_program() -> None:
    """Run the command line and exit with its code; `video-kv-bench` starts here."""
    exit_with(main)


if __name__ == "__main__":
    run_program()
