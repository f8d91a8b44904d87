"""`python -m harness` and `video-kv-bench`: the verbs; everything else goes to the Hydra entry."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from harness.system.ending import exit_with
from harness.system.errors import USER_ERROR, UserError, did_you_mean, system_message
from harness.system.logs import begin, without_flags
from harness.system.user_folder import OPTIONS, expose, own_folder

# Heavy imports wait until a verb needs them: each module has `main(words) -> int`.
VERBS = {
    "ls": "harness.commands.ls",
    "check": "harness.commands.check",
    "bench": "harness.commands.bench",
    "plan": "harness.commands.plan",
    "fetch": "harness.commands.fetch",
    "score": "harness.commands.score",
}
ELSEWHERE = {
    "analysis": "python -m analysis",
    "train": "python -m harness.small_model.diffusion",
    "scenes": "python -m harness.small_model.scenes",
    "docs": "python -m harness.commands.methods_page",
    "run": "python -m harness method=<name>",
    "help": "python -m harness --help",
    "version": "python -m harness --version",
}
# Options of Hydra's that a run takes; others would replace all that ships.
ALONE = (
    "-m",
    "--multirun",
    "-h",
    "--help",
    "--hydra-help",
    "--version",
    "--resolve",
    "-r",
    "--run",
)
_SHOWN = ("job", "hydra", "all")
_TOLD = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
WITH_VALUE = {"--cfg": _SHOWN, "-c": _SHOWN, "--info": _TOLD, "-i": _TOLD}


def main() -> int:
    """Dispatch on the first word; exit code 2 for what the user can fix, in one sentence."""
    try:
        folder, words = own_folder(sys.argv[1:])
        if folder is not None:
            expose(folder)
        verb, *rest = words or [""]
        if verb in VERBS:  # the folder may stand before it or after it
            module = import_module(VERBS[verb])
            if {"-h", "--help"} & set(rest) and hasattr(module, "USAGE"):
                print(module.USAGE)
                return 0
            own = [OPTIONS[0], str(folder)] if folder is not None else []
            return int(module.main([*without_flags(rest), *own]))
        begin()
        ordered = _ordered(words)
        from harness.commands.run import main as run_jobs

        return run_jobs(ordered, folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {system_message(error)}", file=sys.stderr)
    return USER_ERROR


def _ordered(words: Sequence[str]) -> list[str]:
    """Return the words of a run, its options before its settings.

    Raises  UserError: a word that is neither, which Hydra would tell by its grammar.
    """
    options, settings = [], []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in WITH_VALUE:
            value = value if equals else next(rest, "")
            if value not in WITH_VALUE[name]:
                raise UserError(f"{name} {value}: choose {', '.join(WITH_VALUE[name])}")
            options += [name, value]
        elif word in ALONE:
            options.append(word)
        elif word.startswith("-"):
            known = ", ".join([OPTIONS[0], *(each for each in ALONE if each.startswith("--"))])
            raise UserError(f"there is no option {word}: choose {known}, or give name=value")
        elif equals or word.startswith("~"):
            settings.append(word)
        elif word in ELSEWHERE:
            raise UserError(f"{word} is no verb of python -m harness: type {ELSEWHERE[word]}")
        else:
            near = did_you_mean(word, list(VERBS))
            raise UserError(
                f"{word!r} is neither a verb nor a setting{near}? Choose {', '.join(VERBS)}, or "
                "give name=value, as method=rtn_int4; python -m harness --help says more"
            )
    return [*options, *settings]


def run_program() -> None:
    """Run the command line and exit with its code; `video-kv-bench` starts here."""
    exit_with(main)


if __name__ == "__main__":
    run_program()
