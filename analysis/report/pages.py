"""Renders templates: escapes everything, and adds a policy that forbids all other content."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from harness.system.paths import shipped
from harness.system.plain import plain

ASSETS = ("style.css", "theme.js", "table.js", "axes.js", "plots.js", "player.js")
# `file:` stands for a report opened from disk, 'self' for one from a server.
POLICY = (
    "default-src 'none'; script-src 'self' file:{scripts}; style-src 'self' file: 'unsafe-inline'; "
    "img-src 'self' file: data: blob:; media-src 'self' file:; base-uri 'none'; form-action 'none'"
)


def page(template: str, root: str, inline: Sequence[str] = (), **values: Any) -> str:
    """Render one page.

    root: relative path to the report's root (`` or `../`). inline: scripts of the page.
    """
    return (
        environment()
        .get_template(template)
        .render(
            root=root,
            # Ours and already HTML, so not to be escaped.
            policy=Markup(policy(inline)),
            inline=[Markup(script) for script in inline],
            **values,
        )
    )


def policy(inline: Sequence[str]) -> str:
    """Build the content policy: files next to the page, and exactly its inline scripts."""
    # A digest allows exactly this script: text from results that gets into a page cannot run.
    digests = (hashlib.sha256(script.encode()).digest() for script in inline)
    hashes = "".join(f" 'sha256-{base64.b64encode(each).decode()}'" for each in digests)
    return POLICY.format(scripts=hashes)


def data(content: Mapping[str, Any]) -> Markup:
    """Encode JSON so that no text in it can end a script element."""
    text = json.dumps(content, allow_nan=False)
    # The two line separators end a line in older JavaScript, but not in JSON.
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def breakable(name: str) -> Markup:
    """Allow line breaks in a long name after separators."""
    # Names of methods with their settings are longer than a column of a phone.
    return Markup(re.sub(r"([=/_@.]+)", r"\1<wbr>", str(escape(plain(name)))))


def write_assets(folder: Path) -> None:
    """Write the style and scripts that all pages share."""
    # A report opens from disk without a network, so it carries its own scripts and styles.
    target = folder / "assets"
    target.mkdir()
    for name in ASSETS:
        source = shipped("analysis.report", "assets", name)
        (target / name).write_text(source.read_text("utf-8"), "utf-8")


def write(path: Path, text: str) -> int:
    """Write a page and return its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode()
    path.write_bytes(content)
    return len(content)


def plotly() -> str:
    """Return plotly's script, made safe to stand inside a page."""
    # Imported late, since a report without plots does without plotly.
    from plotly.offline import get_plotlyjs

    return re.sub("</script", r"<\\/script", str(get_plotlyjs()))


# One environment keeps the compiled templates for the pages of all prompts and methods.
@lru_cache
def environment() -> Environment:
    """Build the template environment, which escapes and cleans all values."""
    made = Environment(
        loader=PackageLoader("analysis.report"),
        autoescape=True,
        # HTML escaping keeps control characters. Markup is a str too, and is ours.
        finalize=lambda value: plain(value) if type(value) is str else value,
        undefined=StrictUndefined,  # a misspelt name must not print nothing
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["data"] = data
    made.filters["breakable"] = breakable
    return made
