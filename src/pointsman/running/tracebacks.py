"""Tracebacks for the author of code that is served: from the first line of the user's own on."""

from __future__ import annotations

import os
import re
import traceback

from pointsman.exceptions import RemoteTraceback

_OURS = (os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep, "pointsman/")  # as compiled modules say
_PACKAGES = "-packages" + os.sep
_IMPORTING = "<frozen importlib"
_PYTHONS = os.path.dirname(os.path.abspath(os.__file__)) + os.sep


def user_traceback(error: BaseException) -> str:
    """A traceback as text, without the frames above the user's own and without those of the import system."""
    told = traceback.TracebackException.from_exception(error)
    seen: set[int] = set()
    waiting: list[traceback.TracebackException | None] = [told]
    while waiting:
        part = waiting.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        part.stack = traceback.StackSummary.from_list(_users(part.stack))
        waiting += [part.__cause__, part.__context__]
    return "".join(told.format()).rstrip()


def _users(stack: traceback.StackSummary) -> list[traceback.FrameSummary]:
    frames = [frame for frame in stack if not frame.filename.startswith(_IMPORTING)]
    return frames[_first_of_user([frame.filename for frame in frames]) :]


def _first_of_user(files: list[str]) -> int:
    """The index of the first frame of the user's own code. Code of packages counts as that if there is no other: they
    may be the user's, too."""
    last = len(files)
    own = next((i for i, file in enumerate(files) if not _is_above(file) and _PACKAGES not in file), last)
    return own if own < last else next((i for i, file in enumerate(files) if not _is_above(file)), last)


def _is_above(file: str) -> bool:
    """Whether a frame, with only such frames above it, belongs to us or to Python and not to the user."""
    return file.startswith(_OURS) or (file.startswith(_PYTHONS) and _PACKAGES not in file)


def remote_traceback(error: BaseException | None) -> str:
    """The traceback of user code, in another process, that is the reason for an error, from the user's first line on;
    empty if that is none."""
    while error is not None:
        if isinstance(error, RemoteTraceback):
            return from_users_line(str(error).strip("\n"))
        error = error.__cause__
    return ""


_STACK = re.compile(r'^Traceback \(most recent call last\):\n((?:  File ".*\n(?:    .*\n)*)+)', re.MULTILINE)
_FRAME = re.compile(r'  File "(.*?)".*\n(?:    .*\n)*')


def from_users_line(text: str) -> str:
    """The text of a traceback without the frames above the user's own and without those of the import system."""
    return _STACK.sub(_shorter, text)


def _shorter(stack: re.Match[str]) -> str:
    frames = [frame for frame in _FRAME.finditer(stack[1]) if not frame[1].startswith(_IMPORTING)]
    kept = frames[_first_of_user([frame[1] for frame in frames]) :]
    return "".join(["Traceback (most recent call last):\n", *(frame[0] for frame in kept)]) if kept else ""
