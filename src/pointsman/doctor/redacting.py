"""Takes secrets out of text and values: those that are known, and what looks like one. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

HIDDEN = "***"
LEAST = 4
"""Characters that a known secret has at least: a shorter one stands in too many words."""
_NAMES = (
    r"pass(?:word|wd|phrase)?|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credentials?|authorization|cookie"
)
_SECRET_NAME = re.compile(_NAMES, re.IGNORECASE)
_VALUE = r"""(?:(?:bearer|basic)\s+)?(?:"[^"\n]*"|'[^'\n]*'|[^\s,;&"'}]+)"""
_PATTERNS = (
    # NAME=value, "name": "value", NAME: value, --name value
    (re.compile(rf"""([\w.-]*(?:{_NAMES})\w*["']?\s*[:=]\s*){_VALUE}""", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(rf"""(--[\w-]*(?:{_NAMES})\s+){_VALUE}""", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/]+@", re.IGNORECASE), rf"\1{HIDDEN}@"),
    # What users ask: PATH?..., URL?...
    (re.compile(r"""((?:^|[\s"'])(?:https?://[^\s/?"']+)?/[^\s?"']*\?)[^\s"']+"""), rf"\1{HIDDEN}"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
    # As clouds, GitHub, Hugging Face and others write theirs
    (re.compile(r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_\w{20,}|hf_[A-Za-z0-9]{20,}|sk-[\w-]{16,})\b"), HIDDEN),
)


_RECORD = re.compile(r"""\s*(?:\d{4}-\d\d-\d\dT|\{["']level["'])""")
_RAISED = re.compile(r"(\b(?:failed|failure): [\w.]+|\b[\w.]*(?:Error|Exception|Exit|Interrupt|Timeout)): .*")
_FRAME = re.compile(r"""\s*(?:File "|Traceback \(|During handling|The above exception|\^|~)""")
_LITERAL = re.compile(r"""("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')""")
_NAMED = re.compile(r"^(\s*[A-Za-z_][\w.]*): .*")


def without_texts_of_exceptions(text: str) -> str:
    """The text without what exceptions say, since that is user code's: it may have a secret that nobody else knows, as
    of a deploy that was taken back. Their types, and files and lines of tracebacks, stay, without texts in quotes.
    """
    shown, is_text, is_source = [], False, False
    for line in text.split("\n"):
        if _RECORD.match(line):
            is_text = False
        if _FRAME.match(line):
            shown.append(line)
            is_source, is_text = line.lstrip().startswith("File "), False
        elif is_source:
            shown.append(_LITERAL.sub(f'"{HIDDEN}"', line))  # the line of code that a frame names
            is_source = False
        elif is_text:
            continue  # an exception's further lines
        else:
            cut = _RAISED.sub(rf"\1: {HIDDEN}", line)
            if cut == line and not _RECORD.match(line):
                cut = _NAMED.sub(rf"\1: {HIDDEN}", line)
            shown.append(cut)
            is_text = cut != line
    return "\n".join(shown)


def _forms(word: str) -> Iterator[str]:
    """A text as it stands in a log: as it is, within JSON, as Python shows it, and within a URL."""
    yield word
    yield json.dumps(word)[1:-1]
    yield repr(word)[1:-1]
    yield quote(word, safe="")


def is_secret_name(name: str) -> bool:
    """Whether what has that name is a secret as a rule."""
    return _SECRET_NAME.search(name) is not None


class Redactor:
    """Takes secrets out.

    Args:
        known: texts that must not be shown, wherever they stand.
    """

    def __init__(self, known: Iterable[str]) -> None:
        written = {form for word in known if len(word) >= LEAST for form in _forms(word)}
        words = sorted(written, key=lambda word: (-len(word), word))
        self._known = re.compile("|".join(map(re.escape, words))) if words else None

    def text(self, text: str) -> str:
        """The text without secrets."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        return text

    def value(self, value: Any) -> Any:
        """The same for values that JSON has; what stands under a secret's name is hidden whole."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(name)): self._field(str(name), inner) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(inner) for inner in value]
        return value

    def _field(self, name: str, value: Any) -> Any:
        if name in ("text", "traceback", "reason") and isinstance(value, str):
            value = without_texts_of_exceptions(value)
        return HIDDEN if isinstance(value, str) and value and is_secret_name(name) else self.value(value)
