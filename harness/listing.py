"""`python -m harness ls`: what there is, a line each, read from the files themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.cli import CONF, complain
from harness.errors import UserError
from harness.isolate import USER_ERROR

METRICS = Path(__file__).parent / "metrics"


def main(words: Sequence[str]) -> int:
    """Print one list, or all of them; exit code 2 for an unknown word."""
    lists = {
        "methods": lambda: _configs("method"),
        "suites": lambda: _configs("suite"),
        "models": lambda: _configs("model"),
        "attentions": lambda: _configs("attention"),
        "integrations": lambda: _configs("integration"),
        "metrics": _metrics,
    }
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


def _configs(group: str) -> Iterator[tuple[str, str]]:
    """Names of a config group and the comment in the first line of each file."""
    for path in sorted((CONF / group).glob("**/*.yaml")):
        first = path.read_text().splitlines()[0]
        yield str(path.relative_to(CONF / group).with_suffix("")), first.removeprefix("# ")


def _metrics() -> Iterator[tuple[str, str]]:
    """Metric modules and the first line of their docstrings, without importing them."""
    for path in sorted(METRICS.glob("[!_]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        yield path.stem, docstring.splitlines()[0]
