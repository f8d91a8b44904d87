"""What results say: `python -m analysis <verb> ...`; reads results and never runs a model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from harness.system.ending import exit_with
from harness.system.errors import USER_ERROR, Parser, UserError, did_you_mean, system_message
from harness.system.logs import without_flags

# Verb -> (module, help text). A module is imported only when its verb runs; it has
# `arguments(parser)` and `run(words) -> int`.
VERBS = {
    "table": ("verbs.table", "the table of everything below a results folder"),
    "tables": ("verbs.tables", "the published study's tables, from its own data or from results"),
    "figures": ("verbs.figures", "its figures, and those of results, as SVG or PDF"),
    "compare": ("compare", "published numbers beside measured ones, with a verdict"),
    "choose": ("verbs.choose", "which method: frontiers, presets, constraints, equal memory"),
    "controls": ("verbs.controls", "reuse and eviction beside controls of equal cost"),
    "decompose": ("verbs.decompose", "which part of a system a published speed-up is due to"),
    "report": (
        "verbs.report",
        "a folder of pages that opens from disk: plots, tables, videos in step",
    ),
    "drift": ("drift", "how quality changes in the course of the videos"),
    "vbench": ("vbench", "VBench's dimensions, quality and total of every run"),
    "validity": ("validity", "do methods rank as in the published study? Spearman's correlation"),
    "sheets": ("sheets", "a picture a prompt: all methods at the same instants"),
}


def main(words: Sequence[str]) -> int:
    """Run one verb and return its exit code; 2 for errors that the user can fix."""
    # `-v` and `-q` choose what is logged. They may stand anywhere, so they go before any parser
    # looks.
    words = without_flags(words)
    listed = "\n".join(f"  {verb:10} {said}" for verb, (_, said) in VERBS.items())
    parser = Parser(
        prog="python -m analysis",
        description=f"{__doc__}\n\nverbs:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", metavar="verb")
    # Only the first word is parsed here: the others belong to the verb's own parser. argparse's
    # subparsers would have to import every verb to know its options.
    verb = parser.parse_args(words[:1]).verb
    if verb not in VERBS:
        near = did_you_mean(verb, list(VERBS))
        print(f"error: unknown verb {verb!r}{near}? Choose {', '.join(VERBS)}", file=sys.stderr)
        return USER_ERROR
    name, said = VERBS[verb]
    module = import_module(f"analysis.{name}")
    # Named by the verb, so that `--help` and errors show the words that the user has to type.
    own = Parser(prog=f"python -m analysis {verb}", description=said)
    module.arguments(own)
    try:
        return int(module.run(own.parse_args(words[1:])))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:  # a full disk, a folder without rights: no traceback helps with these
        print(f"error: {system_message(error)}", file=sys.stderr)
    return USER_ERROR


if __name__ == "__main__":
    exit_with(lambda: main(sys.argv[1:]))
