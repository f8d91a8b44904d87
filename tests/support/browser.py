"""Runs a headless browser without network, for tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


@dataclass
class Watched:
    """A page with its errors and forbidden requests."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def go(self, path: Path, *, to: str = "") -> Any:
        """Open a file from disk."""
        self.page.goto(path.resolve().as_uri() + to)
        return self.page


@contextmanager
def chromium() -> Iterator[Any]:
    """Start this machine's browser; skip the test if there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser on this machine: none of {', '.join(NAMES)}")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def watched(
    browser: Any, width: int = 1280, height: int = 1600, **context: Any
) -> Iterator[Watched]:
    """Open a page and record its errors and its requests to anything but files."""
    opened = browser.new_context(viewport={"width": width, "height": height}, **context)
    opened.set_default_timeout(180_000)  # a busy machine takes longer than the default 30 s
    found = Watched(opened.new_page())
    page = found.page
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    page.on(
        "console",
        lambda said: found.errors.append(said.text) if said.type in ("error", "warning") else None,
    )
    page.on("requestfailed", lambda request: found.errors.append(f"failed: {request.url}"))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("file:", "data:", "blob:"))
            else found.requests.append(request.url)
        ),
    )
    yield found
    opened.close()
