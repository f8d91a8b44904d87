"""`python -m harness ls`: what there is, a line each, read from the files themselves."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from harness.cli import complain
from harness.compose import choices, described, method_files
from harness.errors import UserError
from harness.isolate import USER_ERROR
from harness.own import own_folder

METRICS = Path(__file__).parent / "metrics"


def main(words: Sequence[str]) -> int:
    """Print one list, or all of them; exit code 2 for an unknown word."""
    folder, words = own_folder(words)
    lists = {
        "methods": lambda: _configs("method", folder),
        "suites": lambda: _configs("suite"),
        "models": lambda: _configs("model"),
        "attentions": lambda: _configs("attention"),
        "integrations": lambda: _configs("integration"),
        "experiments": lambda: _configs("experiment"),
        "metrics": _metrics,
    }
    if words and words[0] == "methods":
        return _with_facts(words[1:], folder)
    unknown = [word for word in words if word not in lists]
    if unknown or len(words) > 1:
        complain(UserError(f"ls {' '.join(words)}: choose ls {'|'.join(lists)}, or ls alone"))
        return USER_ERROR
    for name in words or lists:
        if not words:
            print(f"{name}:")
        entries = list(lists[name]())
        width = max(len(entry) for entry, _ in entries)
        for entry, line in entries:
            print(f"{entry:<{width}}  {line}")
    return 0


def _with_facts(words: Sequence[str], folder: Path | None) -> int:
    """What methods store, a line each as it is counted; words choose among them."""
    files = {
        name: path
        for name, path in method_files(folder).items()
        if all(word in f"{name} {described(path)}".lower() for word in map(str.lower, words))
    }
    if not files:
        complain(UserError(f"ls methods {' '.join(words)}: no name or description has these words"))
        return USER_ERROR
    from harness.catalogue import facts
    from harness.docs import bits, ratio

    texts = [path.read_text() for path in method_files(folder).values()]
    width = max(map(len, files))
    family, source = (_widest(name, texts) for name in ("family", "source"))
    columns = f"{{:<{width}}}  {{:<{family}}}  {{:<{source}}}  {{:>5}}  {{:>6}}  {{}}"
    print(columns.format("method", "family", "source", "bits", "ratio", "10 s of self_forcing"))
    try:
        for each in facts(list(files), folder):
            cells = (each.name, each.family or "-", each.source or "-", bits(each), ratio(each))
            print(columns.format(*cells, each.description), flush=True)
    except (UserError, HydraException, OmegaConfBaseException, YAMLError) as error:
        complain(error)
        return USER_ERROR
    return 0


def _widest(field: str, texts: Sequence[str]) -> int:
    """Characters of the longest value of a field in any file; inherited ones are in another."""
    found = [x for text in texts for x in re.findall(rf"^{field}: *(.*?) *(?:#.*)?$", text, re.M)]
    return max(map(len, [field, *found]))


def _configs(group: str, folder: Path | None = None) -> Iterator[tuple[str, str]]:
    """Names of a config group and the comment in the first line of each file."""
    for name, path in choices(group, folder).items():
        yield name, described(path)


def _metrics() -> Iterator[tuple[str, str]]:
    """Metric modules and the first line of their docstrings, without importing them."""
    for path in sorted(METRICS.glob("[!_]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        yield path.stem, docstring.splitlines()[0]
