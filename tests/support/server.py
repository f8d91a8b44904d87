"""A local file server with adjustable faults."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Asked:
    """One request: its path, its Range header, and the bytes of the body that were sent."""

    path: str
    range: str | None
    sent: int = 0


@dataclass
class Site:
    """Files of a server, and its faults.

    drop: bytes after which each of the next answers breaks off.
    hold: bytes after which an answer waits for `go`.
    status: of the next answers instead of a file; 0 sends no answer.
    kind: content type of all files.
    moved: old paths -> new ones.
    """

    files: dict[str, bytes]
    etag: str | None = '"one"'
    ranges: bool = True
    heeds_etag: bool = True
    length: bool = True
    drop: list[int] = field(default_factory=list)
    hold: int | None = None
    go: threading.Event = field(default_factory=threading.Event)
    status: list[int] = field(default_factory=list)
    kind: str = "application/octet-stream"
    moved: dict[str, str] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    @property
    def bodies(self) -> list[Asked]:
        """Requests that were answered with bytes of a file."""
        return [each for each in self.asked if each.sent]


class Handler(BaseHTTPRequestHandler):
    """Request handler of one site."""

    site: Site

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        site, asked = self.site, Asked(self.path, self.headers.get("Range"))
        site.asked.append(asked)
        if site.status:
            status = site.status.pop(0)
            return self.send_error(status) if status else None  # nothing at all for 0
        if self.path in site.moved:
            self.send_response(302)
            self.send_header("Location", site.moved[self.path])
            return self.end_headers()
        content = site.files.get(self.path)
        if content is None:
            return self.send_error(404)
        start = self._start()
        if start > len(content):
            return self.send_error(416)
        self._head(start, len(content))
        self._send(asked, content[start:])

    def _start(self) -> int:
        site = self.site
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, site.etag)
        return int(span[1]) if span and site.ranges and (same or not site.heeds_etag) else 0

    def _head(self, start: int, total: int) -> None:
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", self.site.kind)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if self.site.etag:
            self.send_header("ETag", self.site.etag)
        if self.site.length:
            self.send_header("Content-Length", str(total - start))
        self.end_headers()

    def _send(self, asked: Asked, body: bytes) -> None:
        site = self.site
        if site.hold is not None and len(body) > site.hold:
            self._write(asked, body[: site.hold])
            site.go.wait(60)
            body = body[site.hold :]
        elif site.drop:
            body = body[: site.drop.pop(0)]
        self._write(asked, body)

    def _write(self, asked: Asked, body: bytes) -> None:
        with suppress(OSError):
            self.wfile.write(body)
            asked.sent += len(body)


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Run a server; `site.url` is its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"site": site})) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        site.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield site
        finally:
            site.go.set()
            server.shutdown()
            thread.join()
