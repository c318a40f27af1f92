"""How large what travels between processes may be. Checked where it is made, so that whoever made it learns of it."""

from __future__ import annotations

from pointsman.exceptions import TooLargeError

MAX_TEXT = 64 * 1024
"""Of a text that tells of a failure, in bytes of UTF-8: a message, a traceback, a class's name. Longer ones are cut."""
MAX_MESSAGE = 64 * 1024 * 1024
"""Of what is sent to the controller or read from it: a packed ``user_config``, the packed init args of a backend, the
arguments of a command, a listing; and of a packed exception."""
MESSAGE_ROOM = 2 * 1024 * 1024
"""What a message may have beyond that, so that the largest ``user_config`` fits with all that is said around it."""
MAX_DESCRIPTION = 1024 * 1024
"""Of all that is stored of a backend besides its code and its ``user_config``: it travels in heads."""
MAX_CODE = 512 * 1024 * 1024
"""Of a backend's packed code, init args included. A store holds each as one value."""
MAX_MIDDLEWARES = 48 * 1024
"""Of the pickled middlewares: they travel through a pipe that is not read until it has been written."""
MAX_ROUTE = 8190
"""Of a route: no request line is longer."""
MAX_HEAD = 16 * 1024 * 1024
"""Of a frame's head."""
MAX_PAYLOAD = 2**31 - 1
"""Of a frame's head and body together."""
MAX_BODY = MAX_PAYLOAD - MAX_HEAD
"""Of the data of a call, an answer or a part of a stream: fits a frame with any head."""

_CUT_BEGIN, _CUT_END = 48 * 1024, 15 * 1024
"""What is kept of a text that is cut; the rest of its room is for the note."""


def check_size(what: str, size: int, limit: int, remedy: str = "", *, room: int = 0) -> None:
    """Refuse what is too large.

    Args:
        what: names it, with its verb: ``"the pickled user_config takes"``.
        size, limit: in bytes.
        remedy: what would be right, in words.
        room: what it may have beyond the limit, in bytes.

    Raises:
        TooLargeError: ``size`` is over the limit and the room.
    """
    if size > limit + room:
        in_mib = f" ({limit >> 20} MiB)" if limit % 2**20 == 0 else ""
        end = f"; {remedy}" if remedy else ""
        raise TooLargeError(f"{what} {size} bytes, over the limit of {limit} bytes{in_mib}{end}")


def cut(text: str) -> str:
    """A text as it may be sent: without lone surrogates, such as file names that are not UTF-8 bring along, and with a
    note in place of its middle when it takes more than 64 KiB."""
    data = str.encode(text, "utf-8", "replace")
    if len(data) <= MAX_TEXT:
        return data.decode()
    left_out = len(data) - _CUT_BEGIN - _CUT_END
    begin, end = (part.decode("utf-8", "ignore") for part in (data[:_CUT_BEGIN], data[-_CUT_END:]))
    return f"{begin} [... {left_out} of {len(data)} bytes are left out, over the limit of {MAX_TEXT} bytes ...] {end}"
