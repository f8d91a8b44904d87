"""A judge at an endpoint for OpenAI's chat completions: hosted, vLLM, llama.cpp, ..."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from harness.scoring.judge.judge import Judge, Verdict, check_frames, images
from harness.scoring.judge.question import first_words, question, read
from harness.scoring.metrics.metric import Frames, Unavailable, Unscorable
from harness.system.errors import UserError, first_line

LONGEST_WAIT_S = 60.0  # also if the server asks for more
JPEG_QUALITY = 95


@dataclass(frozen=True)
class OpenAI(Judge):
    """Asks one question per video, with its frames as images; see conf/judge/openai.yaml.

    api_key_env: name of the environment variable with the key. The key is read only to send a
    question and is never stored, written or printed.
    Raises  UserError: a setting out of range.
    """

    base_url: str | None = None
    model: str | None = None
    api_key_env: str | None = "OPENAI_API_KEY"
    num_frames: int = 16
    max_side_px: int | None = 512
    image_format: str = "png"
    temperature: float | None = 0.0
    seed: int = 0
    max_tokens: int | None = 1024
    json_mode: bool = True
    timeout_s: float = 120.0
    attempts: int = 4
    backoff_s: float = 2.0

    def __post_init__(self) -> None:
        """Validate the settings, and reject secrets in fields that are stored."""
        check_frames(self.num_frames, self.max_side_px)
        if self.api_key_env is not None and not re.fullmatch(r"[A-Za-z_]\w*", self.api_key_env):
            raise UserError(  # do not print the value: it may be a key
                "judge.api_key_env is no name of an environment variable: export the key as "
                "one, JUDGE_KEY say, and give that name"
            )
        if self.base_url is not None:
            url = urlsplit(self.base_url)
            if url.scheme not in ("http", "https") or not url.hostname:
                raise UserError("judge.base_url: give one like https://host/v1")
            if url.username or url.password or url.query or url.fragment:  # may hold a key too
                raise UserError(
                    "judge.base_url holds more than host and path, and results keep it: give "
                    "one like https://host/v1, and a key by judge.api_key_env"
                )
        if self.image_format not in ("png", "jpeg"):
            raise UserError(f"judge.image_format={self.image_format}: choose png or jpeg")
        if not self.timeout_s > 0 or self.attempts < 1 or not self.backoff_s >= 0:
            raise UserError("judge: timeout_s, attempts and backoff_s are to be positive")

    def identity(self) -> str:
        """Describe the host, the model, the frames and the sampling."""
        # Rows keep this text, so it holds the host alone and nothing that could be a secret.
        size = f"at most {self.max_side_px} px a side" if self.max_side_px else "full size"
        return (
            f"endpoint {self._host}, model {self.model}, {self.num_frames} frames as "
            f"{self.image_format}, {size}, temperature {self.temperature}, seed {self.seed}"
        )

    def missing(self) -> str | None:
        """Return the reason if the address, the model or the key is missing, else None."""
        for name, example in (("base_url", "https://host/v1"), ("model", "<name>")):
            if getattr(self, name) is None:
                return f"the judge has no {name}: type judge.{name}={example}"
        if self.api_key_env is not None and not os.environ.get(self.api_key_env):
            return (
                f"the judge's key is not in the environment variable {self.api_key_env}: export "
                f"it, or type judge.api_key_env=null for an endpoint that asks for none"
            )
        return None

    def completed(
        self, events: Sequence[str], frames_THWC: Frames, vote: int = 0, device: str = "cpu"
    ) -> Verdict:
        """Ask the endpoint which events the frames show; retry if it is busy or unreachable.

        Shapes  frames_THWC [T, H, W, 3] u8 RGB.
        Raises  Unscorable: a refusal, or an answer that cannot be read. Unavailable: no answer.
        """
        if reason := self.missing():
            raise Unavailable(reason)
        shown = images(frames_THWC, self.num_frames, self.max_side_px)
        parts: list[dict[str, Any]] = [{"type": "text", "text": question(events, len(shown))}]
        quality = {"quality": JPEG_QUALITY} if self.image_format == "jpeg" else {}
        for image in shown:
            file = io.BytesIO()
            image.save(file, self.image_format, **quality)
            # In the request itself, since the endpoint cannot read files of this machine.
            content = base64.b64encode(file.getvalue()).decode()
            url = f"data:image/{self.image_format};base64,{content}"
            parts.append({"type": "image_url", "image_url": {"url": url}})
        # What is null in the settings is not sent: not every server knows every field.
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": parts}],
            "seed": self.seed + vote,  # one of its own for each vote, so that votes can differ
        }
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.max_tokens is not None:
            body["max_tokens"] = self.max_tokens
        if self.json_mode:
            body["response_format"] = {"type": "json_object"}
        return read(_answer(self._ask(json.dumps(body).encode()), self._host), len(events))

    @property
    def _host(self) -> str:
        return urlsplit(self.base_url or "").netloc

    def _ask(self, body: bytes) -> str:
        """Return the endpoint's response, after at most `attempts` attempts."""
        failure = ""
        for attempt in range(self.attempts):
            # Wait twice as long each time, so that many clients do not keep a busy server busy.
            wait_s = self.backoff_s * 2**attempt
            try:
                return self._post(body)
            except urllib.error.HTTPError as error:
                failure = self._said(error)
                # These say that the server is busy. Any other 4xx would be the same the next time.
                if error.code not in (408, 409, 429) and error.code < 500:
                    raise Unavailable(f"the judge at {self._host} {failure}") from None
                wait_s = max(wait_s, _asked_to_wait_s(error))
            except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
                # URLError wraps the error that says what happened.
                cause = getattr(error, "reason", error)
                late = isinstance(cause, TimeoutError)
                cause = cause if isinstance(cause, Exception) else error
                failure = (
                    f"sent nothing for {self.timeout_s:g} s"
                    if late
                    else f"cannot be reached ({first_line(cause)})"
                )
            if attempt + 1 < self.attempts:
                time.sleep(min(wait_s, LONGEST_WAIT_S))
        raise Unavailable(f"the judge at {self._host} {failure}, {self.attempts} times")

    def _post(self, body: bytes) -> str:
        """Send one request and return the response.

        Raises  OSError, http.client.HTTPException: the request failed.
        """
        assert self.base_url is not None
        headers = {"Content-Type": "application/json", "User-Agent": "video-kv-bench"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        url = f"{self.base_url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(url, body, headers, method="POST")
        with _OPENER.open(request, timeout=self.timeout_s) as response:
            return self._without_key(response.read().decode("utf-8", "replace"))

    def _key(self) -> str:
        # Read from the environment at each use, so that no object holds it.
        return os.environ.get(self.api_key_env, "") if self.api_key_env else ""

    def _without_key(self, text: str) -> str:
        """Return the text with the key replaced; a server may repeat it."""
        key = self._key()
        return text.replace(key, "<key>") if key else text

    def _said(self, error: urllib.error.HTTPError) -> str:
        """Describe an HTTP error."""
        if error.code in (401, 403):  # such responses may quote parts of the key
            given = (
                f"the key in {self.api_key_env}" if self.api_key_env else "a request without key"
            )
            return f"refuses {given} (HTTP {error.code})"
        try:
            text = self._without_key(error.read().decode("utf-8", "replace"))
        except (OSError, http.client.HTTPException):
            text = ""
        return f"answers HTTP {error.code}: {first_words(text)}"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, which would send the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        """Return None, which turns the redirect into an error."""


_OPENER = urllib.request.build_opener(_NoRedirects)


def _asked_to_wait_s(error: urllib.error.HTTPError) -> float:
    """Return the seconds of the Retry-After header, or 0."""
    try:
        return float(error.headers.get("Retry-After", 0))
    except ValueError:  # a date
        return 0.0


def _answer(text: str, host: str) -> str:
    """Return the model's text from an endpoint's response.

    Raises  Unscorable: the model refused or was cut short. Unavailable: the response is not a chat
    completion.
    """
    # Any server may answer at this address, so nothing about the text is certain.
    try:
        choice = json.loads(text)["choices"][0]
        message = choice["message"]
        refusal, content = message.get("refusal"), message.get("content")
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Unavailable(
            f"the judge at {host} sends no chat completion: {first_words(text)}"
        ) from None
    # Some servers refuse in a field of its own, others by the reason the answer ended.
    if refusal or choice.get("finish_reason") == "content_filter":
        raise Unscorable(f"the judge refuses: {first_words(str(refusal or content or ''))}")
    if choice.get("finish_reason") == "length":
        raise Unscorable(
            f"the judge's answer was cut at judge.max_tokens: {first_words(str(content))}"
        )
    return content if isinstance(content, str) else ""
