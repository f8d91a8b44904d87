"""`python -m harness ls`: lists the choices, one per line, read from the configuration files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from harness.config.compose import choices, described, method_files
from harness.config.hydra_errors import OF_COMPOSING
from harness.config.messages import verb
from harness.config.weight_readers import readers
from harness.downloads import weights
from harness.downloads.data_folder import data_folder
from harness.results.observation import Observation, TracePoint
from harness.results.observation import described as described_columns
from harness.system.errors import UserError
from harness.system.text_table import aligned
from harness.system.user_folder import own_folder

USAGE = """python -m harness ls [LIST] [--config-dir FOLDER]

  Shows what there is to choose from, a line each. Lists: methods, suites, models, attentions,
  integrations, experiments, metrics, weights; all of them without a word. `ls methods WORD` shows
  those whose name or description has the word, `ls weights data_dir=FOLDER` the files below it."""


@verb()
def main(words: Sequence[str]) -> int:
    """Print one list, or all of them; exit code 2 for an unknown word."""
    # Functions, since only the lists that are asked for read their files.
    folder, words = own_folder(words)
    lists: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
        "methods": lambda: _configs("method", folder),
        "suites": lambda: _configs("suite"),
        "models": lambda: _configs("model"),
        "attentions": lambda: _configs("attention"),
        "integrations": lambda: _configs("integration"),
        "experiments": lambda: _configs("experiment"),
        "metrics": lambda: _configs("metrics", folder),
        "weights": lambda: _weights(None, folder),
    }
    # Named alone, these lists show more than a line a choice, or take words of their own.
    if words and words[0] == "methods":
        return _with_facts(words[1:], folder)
    named = [word.removeprefix("data_dir=") for word in words[1:] if word.startswith("data_dir=")]
    if words[:1] in (["weights"], ["models"]) and len(named) == len(words) - 1:
        data_dir = named[-1] if named else None
        if words[0] == "models":
            return _models(data_dir, folder)
        lists["weights"] = lambda: _weights(data_dir, folder)
        words = ["weights"]
    if words == ["metrics"]:
        return _metrics(folder)
    if words == ["columns"]:
        return _columns(folder)
    # `columns` is not among the lists: without a word it would fill pages of the terminal.
    unknown = [word for word in words if word not in lists]
    if unknown or len(words) > 1:
        known = "|".join([*lists, "columns"])
        raise UserError(f"ls {' '.join(words)}: choose ls {known}, or ls alone")
    for name in words or lists:
        if not words:
            print(f"{name}:")
        entries = list(lists[name]())
        width = max(len(entry) for entry, _ in entries)
        for entry, line in entries:
            print(f"{entry:<{width}}  {line}")
    return 0


def _metrics(folder: Path | None) -> int:
    """Print the metrics, each with its columns, their direction, and the weights it needs."""
    # Imported late: only these two lists build metrics, which imports torch.
    from harness.config.compose import composing
    from harness.scoring.score import built

    entries = list(_configs("metrics", folder))
    width = max(len(entry) for entry, _ in entries)
    with composing(folder) as composer:
        for entry, line in entries:
            print(f"{entry:<{width}}  {line}")
            chosen = composer.resolved([f"metrics=[{entry}]", "~track"])["metrics"]
            # An entry may be a list of metrics, such as vbench.
            for metric in built(json.dumps(chosen, sort_keys=True)):
                against = ", against BF16" if metric.against_reference else ""
                print(f"  {metric.name}{against}; {metric.version()}")
                used = ", ".join(f"{file} {sha[:12]}" for file, sha in metric.weights().items())
                needs = metric.missing() or (f"weights: {used}" if used else "needs no weights")
                print(f"  {needs}")
                for column in metric.columns():
                    better = f"{column.better} is better" if column.better else "no better or worse"
                    unit = f"{column.unit}, " if column.unit else ""
                    print(f"    {column.name}  {unit}{better}: {column.meaning}")
    return 0


def _columns(folder: Path | None) -> int:
    """Print name, unit and meaning of every column of a run's files."""
    from harness.config.compose import configured
    from harness.results.all_runs import WIDE
    from harness.results.observations import OBSERVATIONS
    from harness.results.scores import SCORES, Scored, fields
    from harness.scoring.score import built

    # A metric that cannot run here still describes its columns.
    metrics = configured(f"metrics=[{','.join(choices('metrics', folder))}]", folder=folder)
    scored = [
        (column.name, (column.metadata.get(b"unit") or b"").decode(),
         column.metadata[b"meaning"].decode())
        for metric in built(json.dumps(metrics["metrics"], sort_keys=True))
        for column in fields(metric)
    ]  # fmt: skip
    # The columns of scores depend on the metrics; all known ones are listed.
    files = {
        f"{OBSERVATIONS}, a row a video": [*described_columns(Observation)],
        "trace/*.parquet, a file a video": [*described_columns(TracePoint)],
        f"{SCORES}, a row a video (of the metrics that were asked for)": [
            *described_columns(Scored),
            *scored,
        ],
    }
    for title, columns in files.items():
        print(f"{title}:")
        width = max(len(name) for name, _, _ in columns)
        for name, unit, meaning in columns:
            print(f"  {name:<{width}}  {f'[{unit}] ' if unit else ''}{meaning}")
    print(f"{WIDE} has the observations and scores of all runs below its folder side by side")
    return 0


def _with_facts(words: Sequence[str], folder: Path | None) -> int:
    """Print what methods store, one line per method; `words` filter by name and description."""
    # By all words together: `ls methods kivi int2` narrows the list down.
    files = {
        name: path
        for name, path in method_files(folder).items()
        if all(word in f"{name} {described(path)}".lower() for word in map(str.lower, words))
    }
    if not files:
        raise UserError(f"ls methods {' '.join(words)}: no name or description has these words")
    import torch

    from harness.commands.methods_page import bits, ratio
    from harness.planning.method_facts import facts

    # The tensors are tiny. On a busy machine, threads that wait for each other take minutes.
    torch.set_num_threads(1)

    # Each line is printed as soon as it is counted, so the width of columns cannot wait for the
    # facts: it comes from the text of the files.
    texts = [path.read_text() for path in method_files(folder).values()]
    width = max(map(len, files))
    # Inherited values need no lookup: the file that they come from is among the texts.
    family, source = (
        max(map(len, [field, *re.findall(rf"^{field}: *(.*?) *(?:#.*)?$", "\n".join(texts), re.M)]))
        for field in ("family", "source")
    )
    columns = f"{{:<{width}}}  {{:<{family}}}  {{:<{source}}}  {{:>5}}  {{:>6}}  {{}}"
    print(columns.format("method", "family", "source", "bits", "ratio", "10 s of self_forcing"))
    for each in facts(list(files), folder):
        cells = (each.name, each.family or "-", each.source or "-", bits(each), ratio(each))
        print(columns.format(*cells, each.description), flush=True)
    return 0


def _models(data_dir: str | None, folder: Path | None) -> int:
    """Print the model presets: state of their files, sizes, and how they run."""
    from harness.planning.model_facts import HEAD, cells, entries

    known = list(entries(data_dir, folder))
    head, *lines = aligned([HEAD, *map(cells, known)])
    print(head)
    for line, entry in zip(lines, known, strict=True):
        print(line)
        for note in entry.notes:
            print(f"  {note}")
    return 0


def _configs(group: str, folder: Path | None = None) -> Iterator[tuple[str, str]]:
    """Yield the names of a config group with the comment in the first line of each file."""
    for name, path in choices(group, folder).items():
        yield name, described(path)


def _weights(data_dir: str | None, folder: Path | None) -> Iterator[tuple[str, str]]:
    """Yield the weight files with metrics and models that use them, size, state and licence."""
    # Models are not listed in the files of weights: each preset names the paths that it reads.
    known = weights.entries(folder).values()
    try:
        models = readers(known, data_folder(data_dir)[0], folder)
    except OF_COMPOSING as error:
        raise UserError(" ".join(str(error).split())) from error
    rows = [
        (entry.name if len(entry.files) == 1 else f"{entry.name}/{Path(file.path).name}",
         ",".join([*entry.used_by, *models.get(entry.name, ())]) or "-",
         *weights.state(file, data_dir), entry.licence)
        for entry in known
        for file in entry.files
    ]  # fmt: skip
    yield from zip([row[0] for row in rows], aligned([row[1:] for row in rows]), strict=True)
