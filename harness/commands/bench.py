"""`python -m harness bench`: compares speed and memory of alternatives within one run.

Each bench appends its rows to a JSON file as they are measured, and writes a Markdown table at its
end. Tests never measure speed.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Sequence
from pathlib import Path

from harness.benchmarks.options import Options
from harness.config.messages import complain, verb
from harness.system.errors import USER_ERROR, UserError

BENCHES = ("formats", "overhead", "attention", "generation", "scoring", "analysis", "peers", "gpu")
BY_NAME = ("peers", "gpu")  # need other projects, or a GPU
FLAGS = ("--out <folder>", "--quick", "--dry-run")
USAGE = f"""python -m harness bench [NAME ...] [--out FOLDER] [--quick] [--dry-run]

  Measures side by side, in one run: {", ".join(BENCHES)};
  without a name all but {" and ".join(BY_NAME)}.
  --quick: small sizes, to see that it runs. --dry-run: the GPU bench at tiny sizes on a CPU."""


@verb("the rows so far are kept")
def main(words: Sequence[str]) -> int:
    """Run the named benches, or all except `BY_NAME`; return the largest exit code.

    A bench that fails does not stop the others. Exit code 2: something that the user can fix.
    """
    names, options = read(words)
    # A plain `bench` must run on every machine.
    names = names or [name for name in BENCHES if name not in BY_NAME]
    code = 0
    for name in names:
        try:
            # Late, as it imports torch.
            bench = importlib.import_module(f"harness.benchmarks.{name}")
            code = max(code, int(bench.run(options)))
        except UserError as error:
            complain(error)
            code = max(code, USER_ERROR)
        except Exception:  # noqa: BLE001  printed with its traceback; the other benches go on
            traceback.print_exc()
            code = max(code, 1)
    return code


def read(words: Sequence[str]) -> tuple[list[str], Options]:
    """Return the named benches and the options.

    Raises  UserError: an unknown word, `--out` without a folder, or `--dry-run` without `gpu`.
    """
    names, given = [], {"--quick": False, "--dry-run": False}
    out: Path | None = None
    rest = iter(words)
    for word in rest:
        if word == "--out":
            folder = next(rest, "--")  # at the end of the line: refused like a missing folder
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
