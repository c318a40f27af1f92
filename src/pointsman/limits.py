"""Size limits of messages between processes. The sender checks them, so that the error reaches the message's author."""

from __future__ import annotations

from pointsman.exceptions import TooLargeError

# All in bytes.

#: A text about a failure, in UTF-8: a message, a traceback, a class's name. A longer one is cut.
MAX_TEXT = 64 * 1024
#: A message to or from the controller: a packed ``user_config``, the packed init args of a backend, the arguments of a
#: command, a listing. Also a packed exception.
MAX_MESSAGE = 64 * 1024 * 1024
#: How much larger a whole message may be, so that the largest ``user_config`` fits in with the fields around it.
MESSAGE_ROOM = 2 * 1024 * 1024
#: Everything that is stored of a backend except its code and its ``user_config``; it is sent in heads of frames.
MAX_DESCRIPTION = 1024 * 1024
#: A backend's packed code with its init args. A store holds it as one value.
MAX_CODE = 512 * 1024 * 1024
#: The pickled middlewares. They are written to a pipe before its reader runs, and a pipe holds 64 KiB.
MAX_MIDDLEWARES = 48 * 1024
#: What is asked of HTTP clients, in the same pipe: API keys of a list, hosts, origins.
MAX_LOCK = 8 * 1024
#: A route: no request line is longer.
MAX_ROUTE = 8190
#: A frame's head.
MAX_HEAD = 16 * 1024 * 1024
#: A frame's head and body together.
MAX_PAYLOAD = 2**31 - 1
#: The data of a call, of an answer or of a part of a stream: fits into a frame with any head.
MAX_BODY = MAX_PAYLOAD - MAX_HEAD

# The beginning and the end that are kept of a text that is cut. What remains of MAX_TEXT is for the note between them.
_CUT_BEGIN, _CUT_END = 48 * 1024, 15 * 1024


def check_size(what: str, size: int, limit: int, remedy: str = "", *, room: int = 0) -> None:
    """Raise if a size is over its limit.

    Args:
        what: beginning of the error's text, with its verb: ``"the pickled user_config takes"``.
        size, limit: in bytes.
        remedy: end of the error's text: what would be right.
        room: bytes that are allowed beyond the limit.

    Raises:
        TooLargeError: ``size`` is over ``limit + room``.
    """
    if size > limit + room:
        in_mib = f" ({limit >> 20} MiB)" if limit % 2**20 == 0 else ""
        end = f"; {remedy}" if remedy else ""
        raise TooLargeError(f"{what} {size} bytes, over the limit of {limit} bytes{in_mib}{end}")


def cut(text: str) -> str:
    """A text in the form in which it is sent. Lone surrogates, as in file names that are not UTF-8, are replaced; of a
    text of more than 64 KiB the middle is replaced by a note."""
    data = str.encode(text, "utf-8", "replace")
    if len(data) <= MAX_TEXT:
        return data.decode()
    left_out = len(data) - _CUT_BEGIN - _CUT_END
    begin, end = (part.decode("utf-8", "ignore") for part in (data[:_CUT_BEGIN], data[-_CUT_END:]))
    return f"{begin} [... {left_out} of {len(data)} bytes are left out, over the limit of {MAX_TEXT} bytes ...] {end}"
