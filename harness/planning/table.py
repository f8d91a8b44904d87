"""Prints forecasts: one line per method, and the memory of a single method by component."""

from __future__ import annotations

from collections.abc import Sequence

from harness.planning.predicted import Forecast, Sizes, largest, total
from harness.planning.rows import Plan
from harness.prompts.suite import MAX_SECONDS
from harness.results.observation import PHASES
from harness.system.text_table import Grid, with_names
from harness.system.units import GIB, MIB

COLUMNS = (
    "method", "contract", "KV MiB", "ratio", "ratio same", "frames", "generate", "decode",
    "peak GiB", "as published", "DiT s", "longest",
)  # fmt: skip
WORDS = ("method", "contract", "component", "suite", "phase")  # columns with text


def cells(row: Forecast) -> list[str]:
    """Return the text of a method's cells, in the order of COLUMNS."""
    pooled = f"+{_frames(row.frames_pooled)}p" if row.frames_pooled else ""
    return [
        row.method,
        row.contract,
        f"{row.stored_bytes / MIB:.2f}",
        *(
            "-" if ratio is None else f"{ratio:.2f}"
            for ratio in (row.ratio_full_length, row.ratio_same_frames)
        ),
        f"{_frames(row.frames_full)}{pooled}",
        gib(largest(row.best["denoise"], row.best["commit"])),
        gib(total(row.best["decode"])),
        gib(row.best_peak_bytes),
        gib(row.published_peak_bytes),
        "" if row.dit_s is None else f"{row.dit_s:.2f}",
        _longest(row),
    ]


def gib(size: int | None) -> str:
    """Format bytes as GiB; a dash for None."""
    return "-" if size is None else f"{size / GIB:.3f}"


def notes(plan: Plan) -> list[str]:
    """Return the notes under the table: definitions, limits, and unknown numbers."""
    # All rows share the model, and with it what depends on no method.
    first = plan.rows[0]
    text = gib(total(first.best["text"]))
    found = [
        "ratio: BF16 bytes of the whole video (full), or of the frames still attended (same), over "
        "the KV bytes at its end; frames: in full, of all tiers, + pooled to one token (p)",
        f"generate (denoise and commit), decode, peak: GiB at best practice ({first.contract} "
        f"contract, history freed before a streamed decode); text comes before and takes {text}",
        "as published: peak GiB with the full history resident while the whole video is decoded, "
        "and the previous video still referenced; codes packed",
        "not seen: workspaces of kernels, the CUDA context (0.3 to 0.6 GiB), allocator slack",
    ]
    if plan.ceilings is None:
        found.append("DiT s: type card=a5000, h100 or h200, or calibration=<file>")
    else:
        found.append(
            f"DiT s: all passes of the network on {plan.ceilings.name} "
            f"({plan.ceilings.source}), a lower bound: matrix products, attention, staging; no "
            "VAE, no text encoder"
        )
    if first.memory_gib is None:
        found.append("longest: type card=... or memory_gib=24")
    else:
        found.append(
            f"longest: latent frames (and seconds) of the longest video within "
            f"{first.memory_gib:g} GiB at best practice"
        )
    found += with_names([(row.method, row.reasons) for row in plan.rows])
    return [*found, *plan.refused]


def print_table(plan: Plan) -> None:
    """Print the table to the terminal; for a single method also its memory by component."""
    first = plan.rows[0]
    title = (
        f"{first.suite}, {first.model}: {first.num_frames} latent frames, {first.video_s:.1f} s; "
        f"attention {plan.attention}"
    )
    print_lines(title, COLUMNS, [cells(row) for row in plan.rows])
    # With several methods this would be a page for each; --format json has it for all.
    if len(plan.rows) == 1:
        for name, phases in (("best practice", first.best), ("as published", first.published)):
            print()
            print_lines(f"{name}, GiB", ("component", *PHASES), components(phases))
    for note in notes(plan):
        print(note)


def components(phases: dict[str, Sizes]) -> list[list[str]]:
    """Return one row per component with a column per phase; the last row is the sum."""
    # Phases have different components; a cell stays empty where a phase does not have one.
    names = dict.fromkeys(name for phase in PHASES for name in phases[phase])
    lines = []
    for name in names:
        held = [phases[phase] for phase in PHASES]
        lines.append([name, *(gib(sizes[name]) if name in sizes else "" for sizes in held)])
    return [*lines, ["sum", *(gib(total(phases[phase])) for phase in PHASES)]]


def print_lines(title: str, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print a title and a table."""
    words = [i for i, column in enumerate(columns) if column in WORDS]
    Grid(title, columns, lines, words=words).show()


def _frames(number: float) -> str:
    """Format a number of frames; a whole one without decimals."""
    # It need not be whole: it is a mean over layers, which may keep different numbers.
    return f"{number:.1f}".removesuffix(".0")


def _longest(row: Forecast) -> str:
    if row.memory_gib is None:
        return ""
    # A dash is unknown, as in the other columns; an empty cell was not asked for.
    if row.longest_frames is None:
        return "-"
    if row.longest_s is None:  # 0 frames: not even one chunk fits
        return "none"
    # The search ends at a day, rounded down to whole chunks.
    if row.longest_s > MAX_SECONDS - 60:
        return "over a day"
    return f"{row.longest_frames} ({row.longest_s:.0f} s)"
