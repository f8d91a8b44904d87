"""`python -m harness.small_model.world captions | measure`: captions of held-out clips, rates."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from harness.config.messages import verb
from harness.small_model.world.clip import HELD_OUT, clip
from harness.small_model.world.report import of_run, of_world, report
from harness.system.errors import Parser, UserError

MOST = 1_000_000  # clips and seeds of one command


@verb()
def main(words: Sequence[str]) -> int:
    """Print captions, or measure how well videos keep to theirs."""
    parser = Parser(prog="python -m harness.small_model.world", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    captions = verbs.add_parser("captions", help="print captions, a line each")
    captions.add_argument("--first", type=int, default=0, help=f"seed; up to {HELD_OUT} held out")
    captions.add_argument("-n", type=int, default=32, help="how many")
    measure = verbs.add_parser("measure", help="hold videos against the scenes of their prompts")
    measure.add_argument("folders", nargs="*", type=Path, help="of runs, with their videos")
    measure.add_argument("--truth", type=int, metavar="N", help="clips of the world: the bound")
    measure.add_argument("--format", choices=["text", "md"], default="text")
    given = parser.parse_args(words)
    if given.verb == "captions":
        if not (0 <= given.first < MOST and 0 < given.n < MOST):
            raise UserError(
                f"captions --first {given.first} -n {given.n}: give a seed from 0 and at least one "
                f"caption, both below {MOST}"
            )
        print("\n".join(clip(seed).prompt for seed in range(given.first, given.first + given.n)))
        return 0
    if given.truth is not None and not 2 <= given.truth < MOST:
        raise UserError(f"measure --truth {given.truth}: give at least 2 clips, below {MOST}")
    if not given.folders and given.truth is None:
        raise UserError("measure: name the folder of a run, or type measure --truth 32")
    sources = [] if given.truth is None else [of_world(0, given.truth)]
    for source in [*sources, *(of_run(folder) for folder in given.folders)]:
        print(report(source, given.format), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
