"""`python -m harness check`: checks methods, models and results folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.config.compose import choices, composing, method_files
from harness.config.messages import verb
from harness.config.settings import check, execution
from harness.system.errors import UserError
from harness.system.logs import remark
from harness.system.user_folder import own_folder

USAGE = """python -m harness check method=NAME [key=value ...] [--config-dir FOLDER]

  Holds a method against the contract of every method, one line each, in a process of its own, which
  may take run.timeout_s seconds for a contract (600). method=all or names with commas examine
  several. Exit code 0: all hold; 1: one does not; 2: there is no such method.

python -m harness check model=NAME [key=value ...] [--config-dir FOLDER]

  Holds a model against its files: whether they are there, have the network's tensors, can encode
  and decode, and predict finite values in one small pass on a CPU. Each line that does not hold
  says what to type. model=all or names with commas examine several. Exit codes as for methods.

python -m harness check FOLDER [FOLDER ...] [--config-dir FOLDER]

  Holds the runs below folders of results against their requests, digests and traces: a line a
  problem, with the command that fixes it. Exit code 0: all runs are complete; 1: something is wrong
  or not finished; 2: there is no run."""


@verb()
def main(words: Sequence[str]) -> int:
    """Print the result of each check; exit code 1 if one fails, 2 for bad input."""
    # Words without a name are folders. A folder that does not exist falls through to the sentence
    # below, which says what can be checked.
    own, rest = own_folder(words)
    folders = [Path(word) for word in rest]
    if folders and all(folder.is_dir() for folder in folders):
        # Late: of all checks, this one alone reads rows of results.
        from harness.checks.results import check as check_results

        return check_results(folders, own)
    from harness.checks.child import LIMIT_S, judged

    # Methods are checked on a small network, whatever `model=` says, so the model is the subject
    # only if no method is named.
    group = "method" if any(word.startswith("method=") for word in rest) else "model"
    asked = [word.removeprefix(f"{group}=") for word in rest if word.startswith(f"{group}=")]
    others = [word for word in rest if not word.startswith(f"{group}=")]
    if len(asked) != 1 or not all("=" in word or word[0] == "~" for word in others):
        raise UserError(
            f"check {' '.join(words)}: give method=<name> or model=<name>, as in check "
            "method=rtn_int4, or folders of results that exist"
        )
    known = method_files(own) if group == "method" else choices("model", own)
    names = list(known) if asked[0] == "all" else asked[0].split(",")
    # All of them are composed before the first check, so that a typing error does not come late.
    with composing(own) as composer:
        configs = {name: composer.resolved([*others, f"{group}={name}"]) for name in names}
    broken = 0
    for config in configs.values():
        check(config)
    limit_s = execution(next(iter(configs.values()))["run"]).timeout_s
    if limit_s is None and group == "method":  # no limit for models: reading files may take long
        limit_s = LIMIT_S
    printed = None  # the name over the lines of several subjects, once for each
    for name, verdict in judged(group, configs, limit_s):
        if len(configs) > 1 and name != printed:
            print(f"{name}:")
        printed = name
        print(verdict, flush=True)
        broken += not verdict.held
    if broken:
        module = {"method": "method_contracts.py", "model": "model.py"}[group]
        remark(f"{broken} broken: harness/checks/{module} says what is asked")
    return 1 if broken else 0
