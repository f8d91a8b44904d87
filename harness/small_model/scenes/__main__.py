"""`python -m harness.small_model.scenes captions | draw | measure`: captions, drawings, rates."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.config.messages import verb
from harness.prompts.suite import TEMPORAL_STRIDE
from harness.results.contact_sheet import contact_sheet
from harness.small_model.scenes.caption import describe
from harness.small_model.scenes.clip import FPS, HELD_OUT, Clip, clip
from harness.small_model.scenes.interpret import interpret
from harness.small_model.scenes.scene import MOST
from harness.system.errors import Parser, UserError

_FRAMES = range(42)  # of latents, 10 s
_LINE = 35  # letters of a label's line


@verb()
def main(words: Sequence[str]) -> int:
    """Print captions of held-out clips, draw how prompts are read, or measure videos."""
    given = _parser().parse_args(words)
    if given.verb == "measure":
        from harness.small_model.scenes.report import of_run, of_world, report

        if not given.folders and given.truth is None:
            raise UserError("measure: name the folder of a run, or type measure --truth 32")
        for folder in given.folders:
            report(of_run(folder)).show()
        if given.truth is not None:
            report(of_world(given.truth, len(_FRAMES))).show()
        return 0
    clips = [clip(seed) for seed in range(given.n)]
    if given.verb == "captions":
        print("\n".join(describe(one.scene) for one in clips))
        return 0
    if given.prompts:
        # A prompt does not determine the colours of marks; a clip draws them from its seed.
        hues = np.random.Generator(np.random.PCG64(0)).random(MOST).tolist()
        shown = [(prompt, Clip(interpret(prompt), tuple(hues))) for prompt in given.prompts]
    else:
        # Drawn from their own scenes and not from the captions, so the marks are those of the
        # clips.
        shown = [(describe(one.scene), one) for one in clips]
    rows = []
    for i, (prompt, one) in enumerate(shown):
        lines = textwrap.wrap(
            " ".join(prompt.split()), _LINE, break_long_words=False, break_on_hyphens=False
        )
        # A label has the number, then at most seven lines of the prompt.
        rows.append(("\n".join([str(i), *lines[:7]]), one.keyframes(_FRAMES)))
    contact_sheet(given.out, rows, columns=7, fps=FPS / TEMPORAL_STRIDE)
    print(given.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m harness.small_model.scenes")
    verbs = parser.add_subparsers(dest="verb", required=True)
    captions = verbs.add_parser("captions", help="print captions of held-out clips, a line each")
    draw = verbs.add_parser("draw", help="draw prompts as the world reads them, a row each")
    draw.add_argument("prompts", nargs="*", help="none: captions of held-out clips")
    draw.add_argument("--out", type=Path, default=Path("scenes.png"), help="a PNG")
    for parsed, count in ((captions, 32), (draw, 8)):
        parsed.add_argument("-n", type=_held_out, default=count, help="how many held-out clips")
    measure = verbs.add_parser("measure", help="compare videos with the scenes of their prompts")
    measure.add_argument("folders", nargs="*", type=Path, help="runs, with their videos")
    measure.add_argument("--truth", type=_held_out, metavar="N", help="held-out clips: the bound")
    return parser


def _held_out(word: str) -> int:
    count = int(word)
    # Beyond, clips are training data, which would not show what a model has learned.
    if not 1 <= count <= HELD_OUT:
        raise argparse.ArgumentTypeError(f"{count} clips: give 1 to {HELD_OUT}")
    return count


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
