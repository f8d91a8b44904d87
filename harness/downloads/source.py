"""Opens an address at a byte offset: HTTP with Range, or a local file."""

from __future__ import annotations

import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

TIMEOUT_S = 15  # without receiving a byte
BASE = "HARNESS_FETCH_BASE"  # default of fetch.base, a copy of a data folder
BUSY = (408, 425, 429, 500, 502, 503, 504)  # status codes after which a retry may succeed
STALE = 416  # the requested range is not in the file


class Unavailable(OSError):
    """An address did not give its file, and an immediate retry would not help."""


class Unreached(Unavailable):
    """The host cannot be reached."""


class Dropped(Unavailable):
    """A connection ended before the file was complete, or the server is busy; a retry may help."""


class Stream(Protocol):
    """A readable stream of bytes."""

    def read1(self, n: int, /) -> bytes:
        """Return at most n bytes as soon as any are available; empty at the end."""


@dataclass(frozen=True)
class Reply:
    """An opened address.

    start: offset of the stream's first byte. total: size of the file; None if unknown.
    tag: identifies this version of the file; empty if the source gives none.
    """

    stream: Stream
    start: int
    total: int | None
    tag: str


def host_of(url: str) -> str:
    """Return the host of an address, or the folder of a local file."""
    try:
        parts = urlsplit(url)
    except ValueError:  # such as a bracket that is not closed; `opened` refuses it with a sentence
        return url
    return parts.netloc or str(Path(urllib.request.url2pathname(parts.path)).parent)


def addresses(place: str, urls: Sequence[str], base: str | None = None) -> tuple[str, ...]:
    """Return the addresses of the file `place` of a data folder: in a copy if named, else `urls`.

    base: address or folder with the layout of a data folder; None for HARNESS_FETCH_BASE.
    """
    base = base or os.environ.get(BASE)
    if not base:
        return tuple(urls)
    # A copy replaces all published addresses: a machine without internet would wait for them.
    if "://" not in base:
        return (Path(base, place).expanduser().absolute().as_uri(),)
    return (f"{base.rstrip('/')}/{quote(place)}",)


def piece(reply: Reply, url: str, nbytes: int) -> bytes:
    """Return the next bytes as soon as any are available; empty at the end.

    Raises  Dropped: the connection ended.
    """
    try:
        return reply.stream.read1(nbytes)
    except (OSError, http.client.HTTPException) as error:
        raise Dropped(f"{host_of(url)} broke off ({_why(error)})") from error


@contextmanager
def opened(url: str, offset: int = 0, tag: str = "") -> Iterator[Reply]:
    """Open an address at `offset` if the file still has the version `tag`, else at its beginning.

    Raises  Dropped: the server is busy. Unreached: no connection. Unavailable: no such file.
    """
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise Unavailable(f"{url} is no address ({error})") from error
    # Both give the same reply, so a copy on a disk is resumed and verified like a download.
    if scheme == "file":
        with _file(url, offset, tag) as reply:
            yield reply
    elif scheme in ("http", "https"):
        with _answer(url, offset, tag) as answer:
            yield _reply(answer)
    else:
        raise Unavailable(f"{url} is no address: choose http, https or file")


class _KeepsTls(urllib.request.HTTPRedirectHandler):
    """Follows redirects, except those from https to another scheme."""

    # Some files have no published checksum: only TLS protects them from being changed on the way.

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request to the new address.

        Raises  HTTPError: it leaves https.
        """
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            said = f"and sends to {newurl}, which is not https; it is not followed"
            raise urllib.error.HTTPError(req.full_url, code, said, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _answer(url: str, offset: int, tag: str) -> Iterator[http.client.HTTPResponse]:
    """Open an HTTP address and follow redirects."""
    # identity: the server must not compress, since offsets and sizes count bytes of the file.
    headers = {"User-Agent": "video-kv-bench", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if tag:  # the server sends the whole file if it has another version by now
            headers["If-Range"] = tag
    try:
        answer = urllib.request.build_opener(_KeepsTls).open(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S
        )
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        # The part is longer than the file, so the file has changed: start over.
        if error.code == STALE:
            with _answer(url, 0, "") as whole:
                yield whole
            return
        said = f"{url} answered {error.code} {error.reason}"
        raise (Dropped if error.code in BUSY else Unavailable)(said) from error
    except (http.client.InvalidURL, ValueError) as error:
        raise Unavailable(f"{url} is no address ({error})") from error
    except urllib.error.URLError as error:
        raise Unreached(f"cannot reach {host_of(url)} ({_why(error)})") from error
    except (OSError, http.client.HTTPException) as error:
        raise Dropped(f"{host_of(url)} broke off ({_why(error)})") from error
    with answer:
        if answer.headers.get_content_type() == "text/html":  # a login portal or an error page
            raise Unavailable(f"{url} answered with a web page instead of the file")
        yield answer


def _reply(answer: http.client.HTTPResponse) -> Reply:
    """Return the reply with its offset: servers without Range send the whole file."""
    # A validator that If-Range accepts. A weak ETag (W/"...") promises the same meaning, not the
    # same bytes, so the date of the last change stands in for it.
    etag = answer.headers.get("ETag", "")
    tag = etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")
    # 206 with a range that can be read: the stream begins at its start. Any other answer is the
    # whole file.
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if answer.status == http.HTTPStatus.PARTIAL_CONTENT and span:
        total = None if span[2] == "*" else int(span[2])
        return Reply(answer, int(span[1]), total, tag)
    length = answer.headers.get("Content-Length", "")
    return Reply(answer, 0, int(length) if length.isdecimal() else None, tag)


@contextmanager
def _file(url: str, offset: int, tag: str) -> Iterator[Reply]:
    """Open a local file, or one on a mounted disk."""
    path = Path(urllib.request.url2pathname(urlsplit(url).path))
    try:
        file = path.open("rb")
    except OSError as error:
        raise Unavailable(f"cannot read {path} ({_why(error)})") from error
    with file:
        # Of the open file: its name may be given to another one meanwhile.
        stat = os.fstat(file.fileno())
        now = f"{stat.st_mtime_ns}-{stat.st_size}"
        start = offset if tag == now else 0  # a changed file is read from its beginning
        file.seek(start)
        yield Reply(file, start, stat.st_size, now)


def _why(error: Exception) -> str:
    """Return the system's message, without Python's wrapping."""
    # urllib puts the system's error into its own.
    reason = getattr(error, "reason", None)
    cause = reason if isinstance(reason, Exception) else error
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
