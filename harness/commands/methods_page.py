"""`python -m harness.commands.methods_page`: generates docs/methods.md from the methods."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby

from harness.config.compose import REFERENCE
from harness.config.messages import verb
from harness.planning.method_facts import Facts, facts
from harness.system.errors import UserError
from harness.system.paths import ROOT, checkout

PAGE = ROOT / "docs" / "methods.md"
INTRO = """# Methods

Written by `make docs` from the files in `conf/method/` and the objects they build; a test fails
when this page is stale. `python -m harness ls methods [word]` prints the same facts.

**How to read it.** All numbers are for a 10 s video of `self_forcing` (30 layers, 12 heads of 128
channels, 42 latent frames of 1560 tokens, `model.window=null`).

- *bits*: bits stored for each value that is held, with scales, zero points, notes and pooled
  frames, keys and values together. A method with tiers has the mean over what it holds at the end.
- *ratio*: BF16 bytes of the whole video over the bytes stored. A policy that lets frames go raises
  it, and attends to less; compare qualities at equal ratios, not bits.
- ≈: what stays depends on the video. The number is that of made-up keys and values whose frames
  resemble the ones before them (correlation 0.9).

Bytes are those of the tensors a method makes, not of a formula: a frame of the true size is
encoded, and the frames of each tier are counted in a cache that holds a made-up video. Methods that
run under another integration (the published one rewrites its cache at every pass) are weighed
there, on a model of fewer layers, heads and tokens, and carried on to the true size; their pooled
frames count as values held. What a method costs in quality is measured by running it, and is not on
this page.

**A method of your own** needs no registration. Put a class and a file into a folder,

```
mine/my_file.py              class MyQuantizer(harness.api.Quantizer): ...
mine/method/mine.yaml        defaults: [bf16, _self_]
                             key: {_target_: my_file.MyQuantizer}
```

and type

```
python -m harness --config-dir mine check method=mine
python -m harness --config-dir mine method=mine
```

The first holds it against the contract of every method (`harness/checks/method_contracts.py`), in a
few seconds; the second runs it. `family:` and `source:` in the file are what tables call it; they
do not change a run's identity. To ship one, put the class into `methods/` and the file into
`conf/method/`, with its description as the comment in the first line, and type `make docs`.

A name means one file everywhere, so a file with the name of one that ships is refused: give yours
another.

**Inputs that fit a format badly.** `tests/methods/test_quantizers_adversarial.py` encodes equal
channels, single outliers, offsets, alternating signs and the ends of the range of BF16 with every
quantizer. The relative error stays below 0.52 with codes of 2 bits, 0.15 with 4 and 0.045 with 8,
except here:

| methods | input | error | why |
| --- | --- | ---: | --- |
| tiers of `rtn_int2` | one outlier among 15 zeros | 1.29 | no level at zero: zeros are moved |
| tiers of `rtn_int4` | the same | 0.26 | the same |
| `quarot_sym_int2` | equal or alternating channels | 1.86 | Hadamard makes one outlier of them |
| `quarot_sym_int4` | the same | 0.37 | the same |
| `qvg_int2`, `qvg_pro_int2` | noise without clusters | 0.70 | three levels, as in the paper |
| `prq_matched_int4` | any | 0.17 | two stages of four levels without a zero |
| `int4_token` | one channel 100 times as large | 0.20 | it sets the step of a whole head |
| `mxfp4` | just below a power of two | 0.25 | from 6 to 8 times the scale is cut to 6 |
| `fp8_e5m2` | any | 0.125 | two bits of mantissa |

In general, levels without a zero have the error sqrt(n - 1) / (2^bits - 1) in a group of n values
of which one is not zero. Scales and zero points are FP16: values above 65504 are moved towards it,
and the steps of symmetric levels below 2^-25 are stored as zero. Nothing there is worse than zeros.

**KIVI.** `kivi_int4` and `kivi_int2` keep the newest chunk in BF16, the residual window of the
paper, there 128 tokens, here whole frames: `method.retention.recent=1` keeps one. A group of keys
lies in one frame, so it is full when its frame leaves the window; what a frame has over
(1560 tokens are 97.5 groups of 16) is a short group. `kivi_nowindow_*` quantize every frame at
once, as `kivi_int4` and `kivi_int2` did until 2026-11-28; `kivi_g32_*` have the paper's groups,
`kivi_g64_*` larger ones. Since that day `turboquant_*` rotate by random signs and Hadamard matrices
(`method.key.seed`), and `qvg_*` have residuals with a level at zero. Runs from before have other
ids: they are not continued, and a table shows both under one name, so start a new `results_dir`.
"""
HEAD = "| method | bits | ratio | source | |\n| --- | ---: | ---: | --- | --- |\n"


def page(all_facts: Iterable[Facts]) -> str:
    """Return the page as Markdown: methods by integration and family."""
    # BF16 comes first, as what all others are compared with.
    known = sorted(all_facts, key=lambda f: (f.integration, f.name != REFERENCE, f.name))
    # Families come in the order of their first method. Reversed, so that the first one wins.
    first = {f.family: at for at, f in reversed(list(enumerate(known)))}
    text = INTRO
    # The packed integration has an empty name, so it comes first and without a heading.
    for integration, those in groupby(known, key=lambda f: f.integration):
        by_family = sorted(those, key=lambda f: first[f.family])
        if integration:
            text += f"\n## {_title(integration)} integration\n"
        for family, methods in groupby(by_family, key=lambda f: f.family):
            level = "###" if integration else "##"
            text += f"\n{level} {_title(family or 'other')}\n\n{HEAD}"
            for each in methods:
                link = r"[arXiv \1](https://arxiv.org/abs/\1)"
                source = re.sub(r"arXiv (\d{4}\.\d{5})", link, each.source)
                cells = (f"`{each.name}`", bits(each), ratio(each), source, each.description)
                # A bar in a text would begin another cell.
                text += "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
    return text


def bits(facts: Facts) -> str:
    """Format bits per value for a table: fewer digits if they depend on the video."""
    # Those are counted on made-up keys and values.
    return f"≈{facts.bits:.1f}" if facts.varies else f"{facts.bits:.2f}"


def ratio(facts: Facts) -> str:
    """Format a compression ratio for a table: fewer digits if it depends on the video."""
    return f"≈{facts.ratio:.1f}" if facts.varies else f"{facts.ratio:.2f}"


@verb()
def main(words: Sequence[str]) -> int:
    """Write the page; exit code 2 for words that it does not take."""
    if words and set(words) <= {"-h", "--help"}:
        print(
            "python -m harness.commands.methods_page\n\n"
            f"  Writes {PAGE} from the methods themselves."
        )
        return 0
    if words:
        raise UserError(f"python -m harness.commands.methods_page takes no words, found {words[0]}")
    # An installed package has no docs folder, and would write the page beside itself.
    if checkout() is None:
        raise UserError("docs/methods.md is written in a checkout only: clone one")
    PAGE.write_text(page(facts()))
    print(PAGE)
    return 0


def _title(words: str) -> str:
    return words[:1].upper() + words[1:]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
