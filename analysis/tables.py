"""Rows to tables: one line a run, means over its videos; a table a contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.grids import Grid
from harness.plain import plain
from harness.sizes import GIB, MIB


@dataclass(frozen=True)
class Line:
    """One run in the table; means over videos, None where nothing was measured."""

    method: str
    n: int
    failed: int
    ratio_same_frames: float | None
    ratio_full_length: float | None
    kv_mib: float | None
    peak_gib: float | None
    published_gib: float | None
    seconds: float | None
    psnr_db: float | None
    ssim: float | None
    lpips: float | None
    reasons: tuple[str, ...]
    devices: tuple[str, ...] = ()
    code_versions: tuple[str, ...] = ()


COLUMNS = {
    "method": "method",
    "n": "n",
    "ratio_same_frames": "ratio same",
    "ratio_full_length": "ratio full",
    "kv_mib": "KV MiB",
    "peak_gib": "peak GiB",
    "published_gib": "as published",
    "seconds": "s/video",
    "psnr_db": "PSNR dB",
    "ssim": "SSIM",
    "lpips": "LPIPS",
}
DECIMALS = {
    "kv_mib": 2,
    "peak_gib": 3,
    "published_gib": 3,
    "seconds": 2,
    "psnr_db": 2,
    "ssim": 4,
    "lpips": 4,
}


@dataclass(frozen=True)
class Section:
    """Runs that may be compared: one suite, one model, one contract and nothing else mixed in."""

    title: str
    lines: list[Line]


def sections(runs: Sequence[pd.DataFrame]) -> list[Section]:
    """The runs by suite, model, contract and prompt source, in the order in which they come."""
    found: dict[str, list[pd.DataFrame]] = {}
    for rows in runs:
        found.setdefault(title(rows), []).append(rows)
    return [Section(title, summarize(tables)) for title, tables in found.items()]


def summarize(runs: Sequence[pd.DataFrame]) -> list[Line]:
    """A line per run, in the order given; the peak is the largest over its videos."""
    return [_line(rows) for rows in runs]


def cells(line: Line) -> list[str]:
    """The text of a line's cells, in the order of COLUMNS."""
    texts = []
    for name in COLUMNS:
        value = getattr(line, name)
        if isinstance(value, float):
            texts.append(f"{value:.{DECIMALS.get(name, 2)}f}")
        else:
            texts.append("-" if value is None else str(value))
    return texts


def notes(lines: Sequence[Line]) -> list[str]:
    """What the reader must know beneath the table: phases, reference, failures, missing values."""
    found = [
        "ratio: BF16 bytes of the frames still attended (same), or of all frames (full), over the "
        "bytes stored",
        "s/video: text, denoise, commit and decode, device finished; peak: the largest of denoise, "
        "commit and decode over all videos; as published: the same, measured in the study's way of "
        "building a method in (integration=published)",
        "PSNR, SSIM, LPIPS: lossless frames against the BF16 video of the same prompt and seed",
    ]
    for what, makers in (
        ("machines", [device for line in lines for device in line.devices]),
        ("versions of the code", [version for line in lines for version in line.code_versions]),
    ):
        several = list(dict.fromkeys(makers))
        if len(several) > 1:
            found.append(f"mixed: rows of {len(several)} {what} ({'; '.join(several)})")
    for line in lines:
        if line.failed:
            found.append(f"{line.method}: {line.failed} videos failed, see failure_reason")
    for reason in dict.fromkeys(reason for line in lines for reason in line.reasons):
        methods = [line.method for line in lines if reason in line.reasons]
        found.append(f"{', '.join(methods)}: {reason}")
    return found


def print_section(section: Section) -> None:
    """Show a table on the terminal."""
    from rich.console import Console

    _grid(section).show()
    console = Console()
    for note in notes(section.lines):
        console.print(plain(note), style="dim", highlight=False, soft_wrap=True)


def markdown(section: Section) -> str:
    """The table in Markdown, with its notes."""
    noted = "".join(f"- {plain(note)}\n" for note in notes(section.lines))
    return f"{_grid(section).markdown()}\n{noted}"


def _grid(section: Section) -> Grid:
    return Grid(section.title, list(COLUMNS.values()), [cells(line) for line in section.lines])


def _line(rows: pd.DataFrame) -> Line:
    made = rows[rows["failure"].isna()]
    peak = None if made.empty else float(made["peak_bytes"].max()) / GIB
    published = rows["integration"].iloc[0] == "published"
    return Line(
        method=" ".join(str(rows[name].iloc[0]) for name in ("method", "settings")).strip(),
        n=len(made),
        failed=len(rows) - len(made),
        ratio_same_frames=_mean(made["kv_ratio_same_frames"]),
        ratio_full_length=_mean(made["kv_ratio_full_length"]),
        kv_mib=_mean(made["kv_stored_bytes"], MIB),
        peak_gib=None if published else peak,
        published_gib=peak if published else None,
        seconds=_mean(made["generate_s"]),
        psnr_db=_mean(made.get("psnr_db")),
        ssim=_mean(made.get("ssim")),
        lpips=_mean(made.get("lpips")),
        reasons=_reasons(made),
        devices=tuple(made["device"].dropna().unique()),
        code_versions=tuple(made["code_version"].dropna().unique()),
    )


def title(rows: pd.DataFrame) -> str:
    """What the runs of a table share: suite, model, contract and source of the prompts."""
    first = rows.iloc[0]
    history = "full history" if first["contract"] == "full" else f"contract {first['contract']}"
    return f"{first['suite']}, {first['model']}, {history}, {first['prompt_source']} prompts"


def _mean(values: pd.Series | None, unit: float = 1.0) -> float | None:
    known = None if values is None else values.dropna()
    return None if known is None or known.empty else float(known.mean()) / unit


def _reasons(made: pd.DataFrame) -> tuple[str, ...]:
    """Why values in the table are null, each reason once."""
    columns = [f"{metric}_reason" for metric in ("psnr", "ssim", "lpips")]
    found = [made[column].dropna() for column in columns if column in made]
    return tuple(dict.fromkeys(reason for reasons in found for reason in reasons))
