"""`python -m harness bench`: measured side by side in one run, never in a test.

Each bench leaves its rows as they come in a JSON file and, at its end, a Markdown table beside it.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Sequence
from pathlib import Path

from harness.benchmarks.options import Options
from harness.config.messages import complain, verb
from harness.system.errors import USER_ERROR, UserError

BENCHES = ("formats", "overhead", "attention", "generation", "scoring", "analysis", "gpu")
FLAGS = ("--out <folder>", "--quick", "--dry-run")
USAGE = f"""python -m harness bench [NAME ...] [--out FOLDER] [--quick] [--dry-run]

  Measures side by side, in one run: {", ".join(BENCHES)}; all but gpu without a name.
  --quick: small sizes, to see that it runs. --dry-run: the GPU bench at tiny sizes on a CPU."""


@verb("the rows so far are kept")
def main(words: Sequence[str]) -> int:
    """Run the benches named, or all but `gpu`; exit code 2 for what the user can fix.

    One that fails does not stop the others; the worst of their exit codes is returned.
    """
    names, options = read(words)
    return max(_run_one(name, options) for name in names or BENCHES[:-1])


def _run_one(name: str, options: Options) -> int:
    """The exit code of one bench; what it raises is printed."""
    try:
        bench = importlib.import_module(f"harness.benchmarks.{name}")  # torch waits until here
        return int(bench.run(options))
    except UserError as error:
        complain(error)
        return USER_ERROR
    except Exception:  # noqa: BLE001  a fault of this bench, told in full; the others go on
        traceback.print_exc()
        return 1


def read(words: Sequence[str]) -> tuple[list[str], Options]:
    """The benches named, and how they run.

    Raises  UserError: an unknown word, a flag without its folder or where it means nothing.
    """
    names, given = [], {"--quick": False, "--dry-run": False}
    out: Path | None = None
    rest = iter(words)
    for word in rest:
        if word == "--out":
            folder = next(rest, "--")
            if not folder or folder.startswith("--"):
                raise UserError("bench --out: name the folder for the files, --out <folder>")
            out = Path(folder)
        elif word in given:
            given[word] = True
        elif word.startswith("-"):
            raise UserError(f"bench {word}: choose {', '.join(FLAGS)}")
        elif word not in BENCHES:
            raise UserError(f"bench {word}: choose {', '.join(BENCHES)}")
        else:
            names.append(word)
    if given["--dry-run"] and names != ["gpu"]:
        raise UserError("bench --dry-run is of the GPU bench alone: type bench gpu --dry-run")
    return names, Options(out, given["--quick"], given["--dry-run"])
