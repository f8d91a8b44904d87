"""`python -m harness plan`: predicts stored bytes, memory peaks and time of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from harness.config.messages import verb
from harness.system.errors import Parser


@verb(also=(ValueError,))
def main(words: Sequence[str]) -> int:
    """Print the predictions for one method or several; exit code 2 for what the user can fix."""
    parser = Parser(
        prog="python -m harness plan",
        description="Settings as for a run (model=, suite=, method=, method.key.bits= ...); "
        "method=all or a list with commas gives a table. Besides: card=a5000|h100|h200, "
        "calibration=<file>, memory_gib=24, attention=staged|portable|fused, "
        "integration=published (the study's own peaks; against=<summaries.csv> compares).",
    )
    parser.add_argument("words", nargs="*", metavar="key=value")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    parser.add_argument("--config-dir", metavar="FOLDER", help="of your own method/*.yaml files")
    # Intermixed, so that options may stand between settings.
    given = parser.parse_intermixed_args(words)

    # Imported here, so that `--help` does not wait for Hydra.
    from harness.planning import request
    from harness.planning.rows import planned
    from harness.planning.table import print_table

    as_json = given.format == "json"
    options, others = request.split(given.words)
    # The study's own peaks come from the data that it stored, not from methods of this repository.
    if options.published:
        from harness.planning import study_table  # imports torch

        study_table.show(others, options.against, as_json)
        return 0
    plan = planned(request.request(options, others, given.config_dir))
    if as_json:
        print(json.dumps([asdict(row) for row in plan.rows], indent=2))
    else:
        print_table(plan)
    return 0
