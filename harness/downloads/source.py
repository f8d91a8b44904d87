"""Open an address from a byte on: HTTP with Range, or a file of this machine."""

from __future__ import annotations

import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

TIMEOUT_S = 15  # without a byte
BASE = "HARNESS_FETCH_BASE"  # a copy of a data folder, as fetch.base
BUSY = (408, 425, 429, 500, 502, 503, 504)  # what a server says that may answer later
STALE = 416  # the range asked for is not in the file


class Unavailable(OSError):
    """An address did not give its file, and would not if asked again at once."""


class Unreached(Unavailable):
    """There is no connection to the host."""


class Dropped(Unavailable):
    """A connection that worked ended before the file did."""


class Stream(Protocol):
    """Something to read from."""

    def read1(self, n: int, /) -> bytes:
        """At most n bytes, as soon as there are any; none at the end."""


@dataclass(frozen=True)
class Reply:
    """An opened address: bytes from `start` on, of `total` (None if unknown) altogether.

    tag: what the source calls this version of the file; empty if it has no name for it.
    """

    stream: Stream
    start: int
    total: int | None
    tag: str


def host_of(url: str) -> str:
    """The host of an address; the folder of a file."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return parts.netloc or str(Path(urllib.request.url2pathname(parts.path)).parent)


def addresses(place: str, urls: Sequence[str], base: str | None = None) -> tuple[str, ...]:
    """Where to get what lies at `place` below a data folder: a copy that the user named, else urls.

    base: an address or a folder laid out as a data folder; else the environment variable says.
    """
    base = base or os.environ.get(BASE)
    if not base:
        return tuple(urls)
    if "://" not in base:
        return (Path(base, place).expanduser().absolute().as_uri(),)
    return (f"{base.rstrip('/')}/{quote(place)}",)


def piece(reply: Reply, url: str, nbytes: int) -> bytes:
    """The next bytes, as soon as there are any; none at the end.

    Raises  Dropped: the connection ended.
    """
    try:
        return reply.stream.read1(nbytes)
    except (OSError, http.client.HTTPException) as error:
        raise Dropped(f"{host_of(url)} broke off ({_why(error)})") from error


@contextmanager
def opened(url: str, offset: int = 0, tag: str = "") -> Iterator[Reply]:
    """Open an address at `offset` if it is still the version `tag`, else at its beginning.

    Raises  Dropped: the server is busy. Unreached. Unavailable: there is no such file.
    """
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise Unavailable(f"{url} is no address ({error})") from error
    if scheme == "file":
        with _file(url, offset, tag) as reply:
            yield reply
    elif scheme in ("http", "https"):
        with _answer(url, offset, tag) as answer:
            yield _reply(answer, offset)
    else:
        raise Unavailable(f"{url} is no address: choose http, https or file")


class _KeepsTls(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but none from https to an address that anybody on the way may change.

    Files whose digest is not known are taken as they come, so the connection vouches for them.
    """

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """The request to the new address.

        Raises  HTTPError: it is not as safe as the old one.
        """
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            said = f"and sends to {newurl}, which is not https; it is not followed"
            raise urllib.error.HTTPError(req.full_url, code, said, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _answer(url: str, offset: int, tag: str) -> Iterator[http.client.HTTPResponse]:
    """What the server answers, redirections followed."""
    headers = {"User-Agent": "video-kv-bench", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if tag:
            headers["If-Range"] = tag
    try:
        answer = urllib.request.build_opener(_KeepsTls).open(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S
        )
    except urllib.error.HTTPError as error:
        error.close()
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
        if answer.headers.get_content_type() == "text/html":  # of a portal, or about an error
            raise Unavailable(f"{url} answered with a web page instead of the file")
        yield answer


def _reply(answer: http.client.HTTPResponse, offset: int) -> Reply:
    """A server without Range gives everything; one with it says from where on."""
    tag = _tag(answer.headers)
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if answer.status == http.HTTPStatus.PARTIAL_CONTENT and span:
        total = None if span[2] == "*" else int(span[2])
        return Reply(answer, int(span[1]), total, tag)
    length = answer.headers.get("Content-Length", "")
    return Reply(answer, 0, int(length) if length.isdecimal() else None, tag)


def _tag(headers: Message) -> str:
    """A strong ETag, else the time of the last change: what If-Range takes."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified", "")


@contextmanager
def _file(url: str, offset: int, tag: str) -> Iterator[Reply]:
    """A file of this machine, or of a disk that it has mounted."""
    path = Path(urllib.request.url2pathname(urlsplit(url).path))
    try:
        file = path.open("rb")
    except OSError as error:
        raise Unavailable(f"cannot read {path} ({_why(error)})") from error
    with file:
        stat = os.fstat(file.fileno())
        now = f"{stat.st_mtime_ns}-{stat.st_size}"
        start = offset if tag == now else 0
        file.seek(start)
        yield Reply(file, start, stat.st_size, now)


def _why(error: Exception) -> str:
    """The system's own words, without Python's around them."""
    reason = getattr(error, "reason", None)
    cause = reason if isinstance(reason, Exception) else error
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
