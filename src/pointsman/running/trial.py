"""Imports a target in a process of its own, before anything is registered.

The process is a fork of this one, from before this one has threads. So the import runs while the instance starts, what
it leaves behind (threads, memory of a GPU) is gone afterwards, and code that ends the interpreter ends only that
process. For ``--reload`` it stays, with the packages of others loaded, and forks again for each trial: then only the
user's own modules are imported anew.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import time
import traceback
import types
from typing import Any, BinaryIO, NamedTuple

import msgspec

from pointsman.backends import TriedBackend
from pointsman.context import begin_trial_import
from pointsman.exceptions import RemoteTraceback
from pointsman.model import TargetTraits
from pointsman.running.files import is_watched
from pointsman.running.targets import Target, TargetError, find_object, is_app
from pointsman.usercode.content import content_digest, loaded_files
from pointsman.usercode.mounting import Mounted, asgi, has_app
from pointsman.usercode.packing import check_callable, inspect_code

MAX_TRIES = 3
#: How long the process may take to end when it is asked to.
END_S = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class CodeError(Exception):
    """User code that cannot be imported. Its text is the traceback, as Python prints it."""


class Found(msgspec.Struct, frozen=True):
    """A target that can be served.

    Attributes:
        name: of the object, which is the name of its backend and endpoint.
        path: its import path.
        content: digest of the user's modules that were loaded.
        folder: of the target's file.
        app: whether it is a bare ASGI app.
    """

    name: str
    path: str
    traits: TargetTraits
    content: str
    folder: str
    app: bool

    def code(self) -> TriedBackend:
        """The code, as clients take it."""
        return TriedBackend(self.path, self.traits, content=self.content, folder=self.folder, app=self.app)


class _Wrong(msgspec.Struct, frozen=True):
    """Why a target cannot be served: its text, and whether the code is at fault or its name."""

    text: str
    by_code: bool


class _Outcome(msgspec.Struct, frozen=True):
    found: Found | None = None
    wrong: _Wrong | None = None


class Trial:
    """A process that imports a target; it begins at once.

    Args:
        target: what to import. Its folder is put first on the import path, of this process too.
        args: init arguments.
        stays: whether :meth:`again` is called later.
        quiet: whether nothing that the code prints is shown.
    """

    def __init__(self, target: Target, args: tuple[Any, ...], *, stays: bool = False, quiet: bool = False) -> None:
        self._shown = target.shown
        sys.path.insert(0, target.folder)
        sys.stdout.flush()
        sys.stderr.flush()
        asked, ask = os.pipe()
        answer, answered = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(ask)
            os.close(answer)
            if quiet:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 1)
                os.dup2(nowhere, 2)
            _be_child(_Ends(os.fdopen(asked, "rb", 0), os.fdopen(answered, "wb")), target, args, stays)
        os.close(asked)
        os.close(answered)
        self._ask, self._answer = os.fdopen(ask, "wb", 0), os.fdopen(answer, "rb")

    def result(self) -> Found:
        """What was found. Blocks until the code is imported.

        Raises:
            TargetError: the target names nothing that can be served.
            CodeError: the code cannot be imported.
        """
        data = _receive(self._answer)
        if data is None:
            _, status = os.waitpid(self._pid, 0)
            self._pid = 0
            raise CodeError(_end_text(self._shown, status))
        outcome = msgspec.msgpack.decode(data, type=_Outcome)
        if outcome.found is not None:
            return outcome.found
        assert outcome.wrong is not None
        raise (CodeError if outcome.wrong.by_code else TargetError)(outcome.wrong.text)

    def again(self) -> Found:
        """Import the code as its files are now. Raises as :meth:`result`."""
        try:
            self._ask.write(b".")
        except BrokenPipeError:
            raise CodeError(f"{self._shown} cannot be imported any more: run the command again") from None
        return self.result()

    def close(self) -> None:
        """End the process, whatever it does."""
        self._ask.close()
        self._answer.close()
        if self._pid:
            pid, self._pid = self._pid, 0
            os.kill(pid, signal.SIGTERM)  # it ends its own fork, too
            deadline = time.monotonic() + END_S
            while not os.waitpid(pid, os.WNOHANG)[0]:
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(END_S / 100)


class _Ends(NamedTuple):
    """The child's ends of the pipes: questions come, answers go."""

    asked: BinaryIO
    answered: BinaryIO


def _be_child(ends: _Ends, target: Target, args: tuple[Any, ...], stays: bool) -> None:
    """Answer once, and then each question; never returns."""
    try:
        for signum in _SIGNALS:
            signal.signal(signum, signal.SIG_DFL)
        begin_trial_import()
        outcome = try_target(target, args)
        _send(ends.answered, outcome)
        while stays and outcome.found is not None and ends.asked.read(1):
            _answer_in_fork(ends, target, args)
    except OSError:
        pass  # the parent has gone
    finally:
        _leave()


def _answer_in_fork(ends: _Ends, target: Target, args: tuple[Any, ...]) -> None:
    pid = os.fork()
    if not pid:
        try:
            _send(ends.answered, try_target(target, args))
        finally:
            _leave()

    def end(*_: object) -> None:
        os.kill(pid, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    _, status = os.waitpid(pid, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if status:
        _send(ends.answered, _Outcome(wrong=_Wrong(_end_text(target.shown, status), by_code=True)))


def _leave() -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # closed by user code, or nobody reads any more
    os._exit(0)


def _end_text(shown: str, status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"importing {shown} has ended the interpreter ({how})"


def _send(file: BinaryIO, outcome: _Outcome) -> None:
    data = msgspec.msgpack.encode(outcome)
    file.write(len(data).to_bytes(8, "big") + data)
    file.flush()


def _receive(file: BinaryIO) -> bytes | None:
    head = file.read(8)
    return file.read(int.from_bytes(head, "big")) if len(head) == 8 else None


# --- in the child -----------------------------------------------------------------------------------------------------


def try_target(target: Target, args: tuple[Any, ...]) -> _Outcome:
    """Import a target and look at what it names. Modules of its folder are imported anew."""
    try:
        module = import_target(target)
        name, found = find_object(module, target)
    except TargetError as error:
        return _Outcome(wrong=_Wrong(str(error), by_code=False))
    except BaseException as error:  # noqa: BLE001 - user code, which may also exit: it is the outcome
        return _Outcome(wrong=_Wrong(user_traceback(error), by_code=True))
    bare = is_app(found) and not isinstance(found, Mounted)
    try:
        traits = inspect_code(asgi(found) if bare else found, args)
        if isinstance(found, type) and not has_app(found):
            check_callable(found)
    except (TypeError, ValueError) as error:
        return _Outcome(wrong=_Wrong(f"{target.shown}:{name} cannot be served: {error}", by_code=False))
    content = content_digest(loaded_files([target.folder]))
    folder = os.path.dirname(os.path.abspath(file_of(module)))
    return _Outcome(Found(name, f"{target.module}:{name}", traits, content, folder, bare))


def import_target(target: Target) -> types.ModuleType:
    """Import a target's module, and anew the modules of its folder that it imports.

    Raises:
        TargetError: another module has its name, or its files do not rest.
        Exception: whatever user code raises.
    """
    for _ in range(MAX_TRIES):
        own = [name for name, module in sys.modules.items() if is_watched(file_of(module), target.folder)]
        for name in own:
            del sys.modules[name]
        importlib.invalidate_caches()
        began = time.time_ns()
        module = importlib.import_module(target.module)
        if target.file and not _is_same(file_of(module), target.file):
            taken = file_of(module) or "Python itself"
            raise TargetError(
                f"{target.file!r} cannot be imported: {target.module!r} is the name of another module, of {taken}"
            )
        ended = time.time_ns()
        if not any(_was_saved(file_of(one), began, ended) for one in own_modules(target.folder)):
            return module
    raise TargetError(f"{target.shown!r} changed while it was read, {MAX_TRIES} times; try again")


def own_modules(folder: str) -> list[types.ModuleType]:
    """Loaded modules of the user's own: those below a folder, without packages of others."""
    return [module for module in list(sys.modules.values()) if is_watched(file_of(module), folder)]


def file_of(module: Any) -> str:
    """The file of a module; empty if it has none."""
    file = getattr(module, "__file__", None)
    return file if isinstance(file, str) else ""


def _is_same(file: str, other: str) -> bool:
    return bool(file) and os.path.realpath(file) == os.path.realpath(other)


def _was_saved(file: str, since_ns: int, until_ns: int) -> bool:
    try:
        return since_ns < os.stat(file).st_mtime_ns <= until_ns  # a time in the future says nothing
    except OSError:
        return False  # removed after it was imported


# --- tracebacks -------------------------------------------------------------------------------------------------------

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
