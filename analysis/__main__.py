"""`python -m analysis table <results>`: the table of everything below a results folder."""

from __future__ import annotations

import argparse
import sys

from analysis.tables import markdown, print_section, sections
from harness.errors import UserError
from harness.store import load


def main() -> int:
    """Print the table; exit code 2 for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    parser.add_argument("verb", choices=["table"])
    parser.add_argument("results", nargs="?", default="results", help="folder of the results")
    parser.add_argument("--format", choices=["text", "md"], default="text")
    words = parser.parse_args()
    try:
        table = load(words.results)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    runs = [rows for _, rows in table.groupby("run_id", sort=False)]
    for section in sections(runs):
        if words.format == "md":
            print(markdown(section))
        else:
            print_section(section)
    return 0


if __name__ == "__main__":
    sys.exit(main())
