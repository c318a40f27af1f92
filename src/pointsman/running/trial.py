"""Imports a target in a process of its own, before anything is registered.

The process is a fork of this one, from before this one has threads. So the import runs while the instance starts, what
it leaves behind (threads, memory of a GPU) is gone afterwards, and code that ends the interpreter ends only that
process. For ``--reload`` it stays, with the packages of others loaded, and forks again for each trial: then only the
user's own modules are imported anew.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import msgspec

from pointsman.backends import TriedBackend
from pointsman.context import begin_trial_import
from pointsman.engine.process import die_with_parent
from pointsman.model import TargetTraits
from pointsman.running.files import is_watched
from pointsman.running.targets import Target, TargetError, find_object, is_app
from pointsman.running.tracebacks import user_traceback
from pointsman.usercode.content import content_digest, drop_old_bytecode, loaded_files
from pointsman.usercode.mounting import Mounted, asgi, has_app
from pointsman.usercode.packing import check_callable, inspect_code

MAX_TRIES = 3
#: How long the process may take to end when it is asked to.
END_S = 1.0
#: How often it is asked whether there is newer code than that which is imported.
LOOK_S = 0.2
#: Ends the trial under way, and not the process that tries.
_NEXT = signal.SIGUSR1
_DEFAULTS = (signal.SIGTERM, signal.SIGHUP)


class CodeError(Exception):
    """User code that cannot be imported. Its text is the traceback, as Python prints it."""


class Superseded(Exception):
    """The code has changed while it was imported, and that was given up."""


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
    """What came of a trial; its number counts the trials of a process."""

    found: Found | None = None
    wrong: _Wrong | None = None
    number: int = 0


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
        self._asked = self._status = 0
        self._lock = threading.Lock()
        sys.path.insert(0, target.folder)
        sys.stdout.flush()
        sys.stderr.flush()
        asked, ask = os.pipe()
        answer, answered = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            die_with_parent()  # also while the import hangs, when nothing is read of it
            os.close(ask)
            os.close(answer)
            if quiet:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 1)
                os.dup2(nowhere, 2)
            _be_child(_Ends(os.fdopen(asked, "rb", 0), os.fdopen(answered, "wb")), target, args, stays)
        os.close(asked)
        os.close(answered)
        self._ask, self._answer = os.fdopen(ask, "wb", 0), os.fdopen(answer, "rb", 0)

    def result(self, superseded: Callable[[], bool] | None = None) -> Found:
        """What was found. Blocks until the code is imported.

        Args:
            superseded: asked again and again meanwhile; True if this code is not wanted any more.

        Raises:
            TargetError: the target names nothing that can be served.
            CodeError: the code cannot be imported.
            Superseded: see there.
        """
        while True:
            while superseded is not None and not select.select([self._answer], [], [], LOOK_S)[0]:
                if superseded():
                    self._signal(_NEXT)
                    raise Superseded
            data = _receive(self._answer)
            if data is None:
                raise CodeError(_end_text(self._shown, self._end_status()))
            outcome = msgspec.msgpack.decode(data, type=_Outcome)
            if outcome.number == self._asked:
                break  # others are those of trials that were given up
        if outcome.found is not None:
            return outcome.found
        assert outcome.wrong is not None
        raise (CodeError if outcome.wrong.by_code else TargetError)(outcome.wrong.text)

    def again(self, superseded: Callable[[], bool] | None = None) -> Found:
        """Import the code as its files are now. Arguments and exceptions are those of :meth:`result`."""
        self._asked += 1
        try:
            self._ask.write(b".")
        except BrokenPipeError:
            raise CodeError(f"{self._shown} cannot be imported any more: run the command again") from None
        return self.result(superseded)

    def close(self) -> None:
        """End the process, whatever it does."""
        self._ask.close()
        with self._lock:
            pid, self._pid = self._pid, 0
        if pid:
            os.kill(pid, signal.SIGTERM)  # it ends its own fork, too
            deadline = time.monotonic() + END_S
            while not os.waitpid(pid, os.WNOHANG)[0]:
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(END_S / 100)
        self._answer.close()  # not before: another thread may read

    def _signal(self, signum: int) -> None:
        with self._lock:  # or it might be reaped in between
            if self._pid:
                os.kill(self._pid, signum)

    def _end_status(self) -> int:
        with self._lock:
            if self._pid:
                _, self._status = os.waitpid(self._pid, 0)
                self._pid = 0
            return self._status


class _Ends(NamedTuple):
    """The child's ends of the pipes: questions come, answers go."""

    asked: BinaryIO
    answered: BinaryIO


def _be_child(ends: _Ends, target: Target, args: tuple[Any, ...], stays: bool) -> None:
    """Answer once, and then each question; never returns."""
    try:
        signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the command too, which ends this process
        for signum in _DEFAULTS:
            signal.signal(signum, signal.SIG_DFL)
        begin_trial_import()
        outcome = try_target(target, args)
        fork = _Fork()
        _send(ends.answered, outcome)
        number = 0
        while stays and outcome.found is not None and ends.asked.read(1):
            number += 1
            fork.answer(ends, target, args, number)
    except OSError:
        pass  # the parent has gone
    finally:
        _leave()


class _Fork:
    """A fork of this process for each trial. ``_NEXT`` ends it, and SIGTERM this process as well."""

    def __init__(self) -> None:
        self._pid = 0
        signal.signal(_NEXT, self._kill)

    def answer(self, ends: _Ends, target: Target, args: tuple[Any, ...], number: int) -> None:
        pid = os.fork()
        if not pid:
            die_with_parent()
            try:
                signal.signal(_NEXT, signal.SIG_DFL)
                _send(ends.answered, msgspec.structs.replace(try_target(target, args), number=number))
            finally:
                _leave()
        self._pid = pid
        signal.signal(signal.SIGTERM, self._end)
        _, status = os.waitpid(pid, 0)
        self._pid = 0
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if status:
            wrong = _Wrong(_end_text(target.shown, status), by_code=True)
            _send(ends.answered, _Outcome(wrong=wrong, number=number))

    def _kill(self, *_: object) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)

    def _end(self, *_: object) -> None:
        self._kill()
        os._exit(0)


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
    head = _read(file, 8)
    return _read(file, int.from_bytes(head, "big")) if len(head) == 8 else None


def _read(file: BinaryIO, size: int) -> bytes:
    """So many bytes, and no more: what is not read yet can be waited for. Fewer at the end of the file."""
    data = b""
    while len(data) < size and (more := file.read(size - len(data))):
        data += more
    return data


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
    files = loaded_files([target.folder])
    drop_old_bytecode(files)
    content = content_digest(files)
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
