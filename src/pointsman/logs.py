"""Log lines of our processes: as text, or as one JSON object per line; with the id of the request that they are about.

Called once at the start of each process. What user code logs by the standard ``logging`` goes the same way, so that its
lines carry the request id, too, without its doing.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import datetime, timezone
from typing import Any

from pointsman.context import call_scope, replica_context

TEXT = "text"
JSON = "json"
FORMATS = (TEXT, JSON)
FIELDS = "fields"
"""Attribute of a record, set by ``extra``: a dict that becomes part of a JSON line, where the message says it too."""


def set_up(log_format: str, process: str) -> None:
    """Send this process's log to standard error.

    Args:
        log_format: ``text`` or ``json``.
        process: what this process is, such as ``ingress``.
    """
    make_record = logging.getLogRecordFactory()

    def with_request_id(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        scope = call_scope.get()
        record.request_id = scope.request_id if scope is not None else ""
        return record

    # At the making of the record and not at its formatting: that may happen on a thread of its own.
    logging.setLogRecordFactory(with_request_id)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter(process) if log_format == JSON else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


class TextFormatter(logging.Formatter):
    """``LEVEL logger: [request id] message``."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        request_id = getattr(record, "request_id", "")
        if not request_id:
            return super().formatMessage(record)
        return f"{record.levelname} {record.name}: [{request_id}] {record.message}"


class JSONFormatter(logging.Formatter):
    """One object per line. ``level`` and ``logger`` come first, since lines are told apart by how they begin."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "level": record.levelname,
            "logger": record.name,
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "message": record.getMessage(),
            "process": self._process,
            "pid": os.getpid(),
        }
        request_id = getattr(record, "request_id", "")
        if request_id:
            line["request_id"] = request_id
        replica = replica_context()
        if replica is not None:
            line["backend"], line["replica"] = replica.backend, replica.replica
        line.update(getattr(record, FIELDS, {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, default=repr, separators=(",", ":"))


def escaped(target: bytes) -> str:
    """Bytes from a client as they may stand in a log: whatever is no printable ASCII is escaped."""
    return "".join(chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x5C else f"\\x{byte:02x}" for byte in target)
