"""The format of log lines: text, or one JSON object per line, with the time and the id of the request.

Set up once at the start of each process. User code that uses the standard ``logging`` gets the same format, with time
and request id. Readers of log files find here how lines begin.

    2026-11-28T09:30:00.123Z WARNING my.model: [id of the request] message
        further lines of the same event
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

from pointsman.context import call_scope, replica_context

TEXT = "text"
JSON = "json"
FORMATS = (TEXT, JSON)
#: Attribute of a log record, set by ``extra``: a dict that is added to a JSON line; the message says the same in words.
#: Its ``request_id``, or the list ``request_ids``, takes precedence over the id of the current call.
FIELDS = "fields"
INDENT = "    "

_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
_JSON_TIME = re.compile(rf"{_TIME[:-1]}\+00:00")
_TEXT_HEAD = re.compile(rf"({_TIME}) (\S+(?: \d+)?) (?:\S+: \[([A-Za-z0-9._,-]+)\] )?")
_ROUTINE = re.compile(rb'(?:%s INFO |{"level":"INFO","logger":")pointsman[.:"]' % _TIME.encode())


def set_up(log_format: str, process: str) -> None:
    """Send this process's log to standard error.

    Args:
        log_format: ``text`` or ``json``.
        process: the role of this process, such as ``ingress``.
    """
    make_record = logging.getLogRecordFactory()

    def with_request_id(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        scope = call_scope.get()
        if scope is not None:
            # A private name: logging raises if a name in the ``extra`` of user code is taken.
            setattr(record, _IDS, scope.request_ids or (scope.request_id,))
        return record

    # When the record is made, not when it is formatted: that may happen on another thread, which has no call.
    logging.setLogRecordFactory(with_request_id)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(log_format, process))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def formatter(log_format: str, process: str) -> logging.Formatter:
    """The formatter of a process; for the arguments see :func:`set_up`."""
    return JSONFormatter(process) if log_format == JSON else TextFormatter()


def record(level: int, logger: str, message: str, fields: Mapping[str, Any]) -> logging.LogRecord:
    """A log record for a formatter that is used without a logger. ``fields`` are added to a JSON line."""
    made = logging.LogRecord(logger, level, "", 0, message, (), None)
    setattr(made, FIELDS, fields)
    return made


def log_failure(log: logging.Logger, message: str, traceback: str, **fields: Any) -> None:
    """Log an error of user code that is known as text only.

    Args:
        message: what failed.
        traceback: logged below the message; in a JSON line it is the field ``exception``.
        fields: see :data:`FIELDS`.
    """
    made = log.makeRecord(log.name, logging.ERROR, "", 0, readable(message), (), None, extra={FIELDS: fields})
    made.exc_text = readable(traceback)
    if log.isEnabledFor(logging.ERROR):
        log.handle(made)


class TextFormatter(logging.Formatter):
    """``TIME LEVEL logger: [request id] message``. Further lines of a message are indented, so that none can be taken
    for a log line. The time is UTC: nodes may be in several zones, and local clocks are set back once a year."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).rstrip("\n").replace("\n", f"\n{INDENT}")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        ids = ",".join(_request_ids(record))
        about = f"[{ids}] " if ids else ""
        return f"{utc(record.created)[:-6]}Z {record.levelname} {record.name}: {about}{record.message}"


class JSONFormatter(logging.Formatter):
    """One object per line. ``level`` and ``logger`` come first: :func:`head_of` and :func:`is_routine` look there.

    Args:
        process: the role of the process whose lines they are.
        pid: of that process; 0 for this one.
    """

    def __init__(self, process: str, pid: int = 0) -> None:
        super().__init__()
        self._process = process
        self._pid = pid

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "level": record.levelname,
            "logger": record.name,
            "time": utc(record.created),
            "message": record.getMessage(),
            "process": self._process,
            "pid": self._pid or os.getpid(),
        }
        ids = _request_ids(record)
        if len(ids) == 1:
            line["request_id"] = ids[0]
        elif ids:
            line["request_ids"] = ids
        replica = replica_context()
        if replica is not None:
            line["backend"], line["replica"] = replica.backend, replica.replica
        line.update({name: value for name, value in _fields(record).items() if name not in _ID_FIELDS})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            line["exception"] = record.exc_text
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, default=repr, separators=(",", ":"))


PRINTED = "print"
"""In the place of a logger's name in a line that no logger wrote."""


#: How each line of our JSON loggers begins.
_BEGIN = b'{"level":"'


def as_json_line(line: bytes, label: str, pid: int) -> bytes:
    """A line of a process as one JSON object: as it is if a logger of ours made it, else as the message of one. What
    was printed without an end before a logger's line is an object of its own.

    Args:
        line: without its end.
        label: tag of the replica that wrote it, or the role of another process.
        pid: of that process.
    """
    text = line.decode(errors="replace")
    if line.startswith(b"{") and line.isascii() and head_of(text) is not None:
        return line + b"\n"
    begin = line.find(_BEGIN, 1)
    if begin > 0 and line[begin:].isascii() and head_of(line[begin:].decode()) is not None:
        return as_json_line(line[:begin], label, pid) + line[begin:] + b"\n"
    backend = label.rpartition("#")[0]
    fields = {"backend": backend, "replica": label} if backend else {}
    made = record(logging.INFO, PRINTED, text, fields)
    return f"{JSONFormatter('replica' if backend else label, pid).format(made)}\n".encode()


_IDS = "_pointsman_request_ids"
_ID_FIELDS = ("request_id", "request_ids")


def utc(seconds: float) -> str:
    """A time of ``time.time`` in the format of JSON lines."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields = getattr(record, FIELDS, None)
    return fields if isinstance(fields, dict) else {}


def _request_ids(record: logging.LogRecord) -> list[str]:
    """The ids of the requests that a line is about; a line about a batch has several."""
    fields = _fields(record)
    for ids in (
        fields.get("request_ids", ()),
        (fields.get("request_id", ""),),
        getattr(record, _IDS, ()),
        (getattr(record, "request_id", ""),),  # given by user code
    ):
        if any(ids):
            return [str(one) for one in ids if one]
    return []


class Head(NamedTuple):
    """The beginning of a log line, parsed.

    Attributes:
        time: as text that sorts by time.
        level: such as ``WARNING``.
        request_ids: of the requests that it is about.
        goes_on: whether indented lines after it belong to it.
    """

    time: str
    level: str
    request_ids: frozenset[str]
    goes_on: bool


def head_of(line: str) -> Head | None:
    """Parse the beginning of a line; None if no logger wrote it, such as output of ``print``."""
    if line.startswith('{"level":'):
        return _head_of_json(line)
    found = _TEXT_HEAD.match(line)
    if found is None:
        return None
    time, level, ids = found.groups()
    return Head(time[:-1], level, frozenset(ids.split(",")) if ids else frozenset(), goes_on=True)


def _head_of_json(line: str) -> Head | None:
    # User code may print JSON that begins like a log line, so all fields that every log line has are checked.
    try:
        read = json.loads(line)
        time, level, ids = read["time"], read["level"], read.get("request_ids") or [read.get("request_id")]
        texts = (level, read["logger"], read["message"])
        if type(read["pid"]) is not int or not all(isinstance(text, str) for text in texts):
            return None
        if _JSON_TIME.fullmatch(time) is None:
            return None
        return Head(time[:23], level, frozenset(one for one in ids if one), goes_on=False)
    except (ValueError, KeyError, TypeError, RecursionError):  # the last for thousands of nested brackets
        return None


def is_routine(line: bytes) -> bool:
    """True for an INFO line of Pointsman itself, which is written to the log file and not shown on the terminal."""
    return _ROUTINE.match(line) is not None


def escaped(target: bytes) -> str:
    """Bytes from a client, safe for a log: all but printable ASCII is escaped."""
    return "".join(chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x5C else f"\\x{byte:02x}" for byte in target)


def printable(text: str) -> str:
    """The text in one line without control characters, so that a name cannot forge log lines."""
    return "".join(character if character.isprintable() else "?" for character in text)


def readable(text: str) -> str:
    """The text in lines without control characters: messages of exceptions may contain what clients sent."""
    return "\n".join(printable(line) for line in text.expandtabs(4).strip().split("\n"))


WARNINGS_PER_SECOND = 10


class WarningBudget:
    """A rate limit for log warnings, per kind. Pure: the time is an argument.

    Args:
        per_second: how many warnings of one kind may be logged in a second.
    """

    def __init__(self, *, per_second: int = WARNINGS_PER_SECOND) -> None:
        self._per_second = per_second
        self._windows: dict[str, tuple[float, int]] = {}

    def take(self, kind: str, now: float) -> int | None:
        """Request to log one warning.

        Returns:
            None if it must not be logged; otherwise how many were suppressed in the second before (usually 0).
        """
        start, count = self._windows.get(kind, (now, 0))
        held_back = 0
        if now - start >= 1.0:
            held_back = max(0, count - self._per_second)
            start, count = now, 0
        self._windows[kind] = (start, count + 1)
        return held_back if count < self._per_second else None
