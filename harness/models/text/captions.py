"""Cleans prompts as the captions were cleaned on which T5-conditioned models were trained."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from urllib.parse import unquote_plus

_FILES = r"(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"
_SITES = r"[a-z0-9.\-]+\.(?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
_DASHES = (
    r"[-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
    r"\ufe31\ufe32\ufe58\ufe63\uff0d]+"
)
_SIGNS = r"[#\u00ae\u2022\u00a9\u2122&@\u00b7\u00ba\u00bd\u00be\u00bf\u00a1\u00a7~()\[\]{}|\\/*]+"

# Rules: a pattern and its replacement. The order matters, because each rule sees the text that the
# earlier rules left.
# They are kept as published, also where one repeats another: the network was trained on captions
# that went through exactly these.
_BEFORE_TAGS = (
    ("<person>", "person"),
    (rf"\b(?:https?:(?:/{{1,3}}|[a-z0-9%])|{_SITES})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-z0-9%])|{_SITES})", ""),
)
_BEFORE_UNICODE = (
    (r"@\w+\b", ""),  # handles
    (r"[\u31c0-\u9fff]+", ""),  # Chinese characters
    (_DASHES, "-"),
    (r"[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]", '"'),
    (r"[\u2018\u2019]", "'"),
    (r"&(?:quot;?|amp)", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),  # IP addresses
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#(?:\d{1,3}|\d{5,})\b|\b\d{6,}\b", ""),  # ids
    (rf"\S+\.{_FILES}", ""),
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (_SIGNS, " "),
    (r"\s+\.\s+", " "),
)
_AFTER_UNICODE = (
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # more ids
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),  # words of shops
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b{_FILES}(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    (r"\b\d+\.?\d*[x\u0445\u00d7]\d+\.?\d*\b", ""),  # sizes of pictures
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)


def clean_caption(prompt: str) -> str:
    """Return a prompt in lower case, without links, tags, handles, ids and odd signs.

    Models that were trained with it clean a prompt twice.

    Source  DeepFloyd IF, whose rules MAGI-1 took over.
    Raises  ImportError: ftfy is missing.
    """
    import ftfy  # part of an extra, and only these prompts need it

    text = _apply(_BEFORE_TAGS, unquote_plus(prompt).strip().lower())
    text = _apply(_BEFORE_UNICODE, without_tags(text))
    # More than three of them make a-name-of-many-words; fewer are hyphens.
    if len(re.findall("[-_]", text)) > 3:
        text = re.sub("[-_]", " ", text)
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return _apply(_AFTER_UNICODE, text).strip()


def without_tags(text: str) -> str:
    """Return the text between the tags of HTML."""
    # Python's parser: diffusers takes another package for this line alone.
    parser = _TextOfHtml()
    parser.feed(text)
    parser.close()
    return "".join(parser.found)


def _apply(rules: tuple[tuple[str, str], ...], text: str) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


class _TextOfHtml(HTMLParser):
    """Collects the text between the tags of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        """Collect a piece of text."""
        self.found.append(data)
