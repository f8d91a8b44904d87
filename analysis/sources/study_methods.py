"""Reads our runs of the study's methods: one value per method and prompt, on common prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import yaml

from analysis.section import VIDEO
from harness.config.compose import choices
from harness.system.errors import UserError

FOLDER = "published/"  # of conf/method
# Rows of one sweep agree in all of these columns; others may not be mixed in.
SAME = [
    *("model", "preset", "weights", "settings"),
    *("contract", "num_latent_frames", "prompt_source"),
]
COLUMNS = ["psnr_frame_mean_db", "psnr_rest_db", "ssim", "lpips"]
NEEDED = ["psnr_frame_mean_db", "ssim"]  # a video without these is not scored


@dataclass(frozen=True)
class Measured:
    """One suite of ours.

    values: by column of `harness.results.observations`: one row per video, one column per method
        (published name). A column that some video lacks is absent, and `reasons` explains why.
    left_out: methods that lack a video, with the reason.
    """

    suite: str
    values: Mapping[str, pd.DataFrame]
    reasons: Mapping[str, str]
    left_out: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """Methods with a value on every prompt."""
        return [str(name) for name in self.values[NEEDED[0]].columns]


def published_names() -> dict[str, str]:
    """Map our methods that repeat rows of the study to the names of these rows."""
    files = {name: path for name, path in choices("method").items() if name.startswith(FOLDER)}
    # The files and not a list here: a method that is added is compared without another change.
    said = {name: yaml.safe_load(path.read_text()) for name, path in files.items()}
    return {name: str(file["source"]).partition(", row ")[2] for name, file in said.items()}


def one_sweep(table: pd.DataFrame, names: Mapping[str, str]) -> tuple[pd.DataFrame, list[str]]:
    """Select the rows of the study's methods that may be compared, and describe the others.

    If rows differ in `SAME`, the group with the most pairs of suite and method stays.
    Raises  UserError: there is no row of these methods.
    """
    rows = table[table["method"].isin(names)]
    if rows.empty:
        raise UserError(
            f"none of the {len(table)} rows is of a method in conf/method/{FOLDER}: type "
            "make validity, or python -m harness method=published/rtn_int4"
        )
    # Null equals nothing, itself included, so it cannot be part of a key.
    kinds = [tuple(kind) for kind in rows[SAME].astype(object).fillna("").to_numpy()]
    # A folder may hold a trial sweep beside the real one, whose rows would count as second videos.
    groups = {kind: rows[[other == kind for other in kinds]] for kind in dict.fromkeys(kinds)}
    kept = max(groups, key=lambda kind: len(groups[kind][["suite", "method"]].drop_duplicates()))
    notes = []
    for kind in groups.keys() - {kept}:
        pairs = zip(SAME, kind, kept, strict=True)
        other = ", ".join(f"{name}={value}" for name, value, ours in pairs if value != ours)
        notes.append(f"left out: {len(groups[kind])} rows of another sweep ({other})")
    return groups[kept], sorted(notes)


def by_suite(rows: pd.DataFrame, names: Mapping[str, str]) -> dict[str, Measured]:
    """Split the rows of one sweep by suite.

    Raises  UserError: a method made one video in several runs.
    """
    asked = {column: None for column in COLUMNS if column not in rows}  # never scored
    named = rows.assign(name=rows["method"].map(names), **asked)
    return {
        str(suite): _suite(str(suite), part) for suite, part in named.groupby("suite", sort=True)
    }


def _suite(suite: str, rows: pd.DataFrame) -> Measured:
    """Put every method on the prompts that most methods have; drop methods that miss one."""
    # Two runs of one method, for example with other seeds, would count a prompt twice.
    twice = rows[rows.duplicated(["name", *VIDEO])]
    if len(twice):
        runs = sorted(rows.loc[rows["name"] == twice["name"].iloc[0], "run_id"].unique())
        raise UserError(
            f"{suite}: {twice['name'].iloc[0]} made one video in several runs ({', '.join(runs)}): "
            "keep one of their folders, or give the folder of one sweep"
        )
    scored = rows[rows[NEEDED].notna().all(axis=1)]
    # Means over different prompts do not compare, so all methods share the commonest set.
    held = {name: frozenset(_videos(part)) for name, part in scored.groupby("name", sort=True)}
    counted = Counter(held.values())
    # Of sets that as many methods have, take the one with the most videos.
    usual = max(counted, key=lambda videos: (counted[videos], len(videos)), default=frozenset())
    # A method with more videos than the common set keeps its place: the others are cut off below.
    complete = [name for name in held if held[name] >= usual]
    left_out = {
        str(name): f"{len(held.get(name, frozenset()) & usual)} of {len(usual)} videos {_why(part)}"
        for name, part in rows.groupby("name", sort=True)
        if name not in complete
    }
    chosen = scored[scored["name"].isin(complete)]
    chosen = chosen[[video in usual for video in _videos(chosen)]]
    values, reasons = {}, {}
    for column in COLUMNS:
        wide = chosen.pivot(index=VIDEO, columns="name", values=column).astype(float)
        # LPIPS needs weights: without them the column is left out, and the comparison goes on.
        if not wide.isna().any(axis=None):
            values[column] = wide
            continue
        missing, why = chosen[chosen[column].isna()], f"{column.partition('_')[0]}_reason"
        said: list[str] = list(missing[why].dropna().unique() if why in missing else ())
        reasons[column] = f"{len(missing)} of {len(chosen)} videos without it" + "".join(
            f"; {each}" for each in said
        )
    return Measured(suite, values, reasons, left_out)


def _videos(rows: pd.DataFrame) -> list[tuple[int, int]]:
    return list(zip(rows["prompt_index"], rows["sample"], strict=True))


def _why(rows: pd.DataFrame) -> str:
    """Give the first reason in the rows for missing fidelity."""
    for column in ("failure_reason", "psnr_reason", "ssim_reason"):
        for reason in rows[column].dropna() if column in rows else ():
            return f"({reason})"
    return "(not made or not scored)"
