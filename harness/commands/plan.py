"""`python -m harness plan`: bytes, peaks and time of a run, predicted before anything runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from harness.system.errors import USER_ERROR, Parser


def main(words: Sequence[str]) -> int:
    """Print the plan of one method or several; exit code 2 for what the user can mend."""
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
    given = parser.parse_intermixed_args(words)

    from hydra.errors import InstantiationException

    from harness.config.hydra_errors import OF_COMPOSING
    from harness.config.messages import complain, of_construction
    from harness.system.errors import UserError, of_system

    try:
        _plan(given.words, given.format == "json", given.config_dir)
    except InstantiationException as error:
        complain(UserError(of_construction(error)))
    except (UserError, ValueError, *OF_COMPOSING) as error:
        complain(error)
    except OSError as error:
        complain(UserError(of_system(error)))
    else:
        return 0
    return USER_ERROR


def _plan(words: Sequence[str], as_json: bool, config_dir: str | None) -> None:
    from harness.planning import request, study_table
    from harness.planning.forecast import forecast
    from harness.planning.table import print_table

    options, others = request.split(words)
    if options.published:
        study_table.show(others, options.against, as_json)
        return
    setting, methods = request.resolve(options, others, config_dir)
    rows = [forecast(name, method, setting) for name, method in methods.items()]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print_table(rows, setting)
