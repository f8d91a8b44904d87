"""Prints the study's peaks as counted here, next to the published ones if given.

This is `python -m harness plan integration=published`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from harness.models.preset import VideoModel
from harness.planning.study_peaks import Row, catalogue, geometry, row
from harness.planning.table import gib, print_lines
from harness.prompts import suite as suites
from harness.system.errors import UserError, did_you_mean
from harness.system.paths import CONF

# How close a counted peak comes to the printed one.
LIMITS_GIB = (0.1, 0.01, 0.001)
Published = dict[tuple[str, str], float]


def show(words: Sequence[str], against: str | None, as_json: bool) -> None:
    """Print the requested rows.

    Raises  UserError: an unknown word, method or suite, or a file that is not the summaries.
    """
    found = rows(words)
    published = read(Path(against)) if against is not None else {}
    lines: list[dict[str, Any]] = []
    for each in found:
        printed = published.get((each.suite, each.method))
        error = None if printed is None else each.peak_bytes / 2**30 - printed
        lines.append({**asdict(each), "published_gib": printed, "error_gib": error})
    if as_json:
        print(json.dumps(lines, indent=2))
        return
    titles = ("suite", "method", "phase", "KV GiB", "ratio", "peak GiB", "published", "error")
    title = "peaks of arXiv 2603.27469, counted from what its methods stored"
    table = []
    for line in lines:
        cells = [line["suite"], line["method"], line["phase"], gib(line["kv_bytes"])]
        cells += [f"{line['ratio']:.4f}", gib(line["peak_bytes"])]
        known = line["published_gib"] is not None  # else nothing was given to compare with
        cells += (
            [f"{line['published_gib']:.3f}", f"{line['error_gib']:+.4f}"] if known else ["", ""]
        )
        table.append(cells)
    print_lines(title, titles, table)
    print(
        "phase: where the peak lies; ratio: by their own count of packed bytes, which they did not "
        "store\nthe text encoder is not in it: they streamed it from the host"
    )
    if not published:
        print("to compare: type against=<summaries.csv> with benchmark, method and peak_vram_gb")
    for suite in dict.fromkeys(each.suite for each in found):
        errors = [line["error_gib"] for line in lines if line["suite"] == suite]
        errors = [abs(error) for error in errors if error is not None]
        if errors:
            close = (f"{sum(e <= limit for e in errors)} within {limit}" for limit in LIMITS_GIB)
            print(f"{suite}: of {len(errors)} peaks {', '.join(close)} GiB")


def rows(words: Sequence[str] = ()) -> list[Row]:
    """Count the requested methods and suites; all of them without words.

    Raises  UserError: an unknown word, method or suite.
    """
    # Not composed by Hydra: the study's rows have no settings.
    book = catalogue()
    chosen: dict[str, Sequence[str]] = {"method": list(book.methods), "suite": list(book.budgets)}
    for word in words:
        key, _, value = word.partition("=")
        if key not in chosen:
            raise UserError(f"{word}: integration=published takes method=, suite= and against=")
        if value == "all":
            continue
        known = {"method": list(book.methods), "suite": list(book.budgets)}[key]
        for name in value.split(","):
            if name not in known:
                near = did_you_mean(name, known)
                raise UserError(f"unknown {key} {name}{near}: choose {', '.join(known)}")
        chosen[key] = value.split(",")
    found = []
    for suite in chosen["suite"]:
        # Once for a suite: it runs the network on the meta device.
        shape = geometry(*_model(suite), book.vae_parameters)
        # Some rows exist for one suite only.
        methods = [name for name in chosen["method"] if suite in book.methods[name].suites]
        found += [row(name, suite, book, shape) for name in methods]
    return found


def read(path: Path) -> Published:
    """Read published peaks in GiB by suite and method.

    Raises  UserError: the file cannot be read, or has other columns.
    """
    try:
        with path.open(newline="") as lines:
            # What the study calls GB are GiB.
            return {
                (line["benchmark"], line["method"]): float(line["peak_vram_gb"])
                for line in csv.DictReader(lines)
            }
    except OSError as error:
        raise UserError(f"cannot read against={path}: {error.strerror}") from error
    except (KeyError, ValueError) as error:
        raise UserError(
            f"against={path} is no table of benchmark, method and peak_vram_gb ({error}): give "
            "the study's summaries"
        ) from error


def _model(suite_name: str) -> tuple[VideoModel, int]:
    """Return the study's model, and the latent frames of a suite's videos."""
    # Only the bundled model: the study's numbers hold for no other.
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["model=self_forcing", f"suite={suite_name}"])
    model: VideoModel = instantiate(OmegaConf.to_container(config.model, resolve=True))
    suite = suites.configured(OmegaConf.to_container(config.suite, resolve=True))
    first = model.first_pixel_frames
    return model, suites.latent_frames(suite, model.chunk_frames, model.fps, first)
