"""One comparison in the process beside a router: compares pairs, counts what comes of them, and keeps examples.

Answers of handles are pickles. They are read without any class, so that unpickling runs no code here.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from pointsman.comparer.limits import FunctionRunner, TooSlowError, limited
from pointsman.comparing.answers import TOO_LARGE, Answer
from pointsman.comparing.examples import ExampleStore
from pointsman.comparing.pairs import ERROR, MATCH, STATUS, Outcome, compare_answers
from pointsman.comparing.redaction import make_example
from pointsman.comparing.report import ratio_bucket
from pointsman.model.comparison import Function
from pointsman.telemetry.pairs import (
    EXAMPLES,
    LOCK,
    MATCHED,
    MISMATCHED,
    RATIO,
    UNCOMPARED,
    CountKey,
    PairCounter,
    code_of,
)
from pointsman.wire.pairs import MAX_ANSWER, Began, Missed, Pair, Sides

log = logging.getLogger("pointsman.comparer")

SHORT = 2048
"""Bytes of two answers that cannot take long, whatever they are."""
OBJECTS, TOO_SLOW = "objects", "too_slow"
"""Why a pair is not compared: a handle's answer is no plain data; comparing has taken over 1 s."""

MAX_PLAIN = 2 * MAX_ANSWER
"""Items and characters of what is in a pickle."""


class Subject:
    """One comparison: its counts, its examples, and the user's function if it has one."""

    def __init__(self, folder: Path, began: Began) -> None:
        self._comparison = began.comparison
        self._folder = folder / began.comparison.name
        self._counter = PairCounter(self._folder)
        self._stores: dict[str, ExampleStore] = {}
        by = began.comparison.by
        self._runner = FunctionRunner(by, self._record) if isinstance(by, Function) else None

    def take(self, message: Pair | Missed) -> None:
        if isinstance(message, Missed):
            self._count(message.sides, "", UNCOMPARED, message.reason, message.count)
            return
        try:
            pair = self._as_http(message)
        except NotPlainError as error:
            self._record(message, Outcome(uncompared=error.reason))
            return
        except TooSlowError:
            self._record(message, Outcome(uncompared=TOO_SLOW))
            return
        except MemoryError:  # a small pickle can be much JSON
            self._record(message, Outcome(uncompared=TOO_LARGE))
            return
        if pair.pickled:
            self._record(pair, MATCH)
        elif self._runner is not None:
            self._runner.put(pair)
        else:
            self._record(pair, self._compare(pair))

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()
        self._counter.close()

    def _as_http(self, pair: Pair) -> Pair:
        if not pair.pickled:
            return pair
        with limited():
            return _as_http(pair)

    def _compare(self, pair: Pair) -> Outcome:
        if len(pair.primary.body) + len(pair.shadow.body) < SHORT:
            return compare_answers(self._comparison.by, pair.primary, pair.shadow)
        try:
            with limited():
                return compare_answers(self._comparison.by, pair.primary, pair.shadow)
        except TooSlowError:
            return Outcome(uncompared=TOO_SLOW)
        except MemoryError:
            return Outcome(uncompared=TOO_LARGE)

    def _record(self, pair: Pair, outcome: Outcome) -> None:
        sides = pair.sides
        if not sides.noise and outcome.kind not in (ERROR, STATUS):  # errors are quick
            self._count(sides, "", RATIO, str(ratio_bucket(pair.primary_s, pair.shadow_s)))
        if outcome.uncompared:
            self._count(sides, "", UNCOMPARED, outcome.uncompared)
        elif not outcome.kind:
            self._count(sides, pair.route, MATCHED)
        else:
            if not sides.noise:
                self._keep(pair, outcome)  # first: whoever sees the count finds the example
            self._count(sides, pair.route, MISMATCHED, outcome.kind)

    def _keep(self, pair: Pair, outcome: Outcome) -> None:
        """Keep an example, unless there are worse ones. Other processes may write to the same folder."""
        sides, comparison = pair.sides, self._comparison
        code = code_of(sides.primary, sides.primary_version, sides.shadow_version)
        store = self._stores.get(code)
        if store is not None and not store.wants(outcome.kind, outcome.score):
            return
        example = make_example(
            outcome, pair.primary, pair.shadow, request_id=pair.request_id, route=pair.route, redact=comparison.redact
        )
        try:
            with locked(self._folder / EXAMPLES / LOCK):
                store = self._stores[code] = ExampleStore(str(self._folder / EXAMPLES / code), comparison.keep)
                store.add(example)
        except OSError as error:
            self._stores.pop(code, None)
            log.warning("an example of answers that differ cannot be stored: %s", error)

    def _count(self, sides: Sides, route: str, what: str, detail: str = "", by: int = 1) -> None:
        key = CountKey(sides.primary, sides.primary_version, sides.shadow_version, sides.noise, route, what, detail)
        self._counter.count(key, by)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes and threads share; the folder is made.

    Raises:
        OSError: it cannot be made.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _as_http(pair: Pair) -> Pair:
    """A pair of pickles with what is in them. Equal pickles that have more than plain data stay as they are.

    Raises:
        NotPlainError: they are not equal, and one has more than plain data.
    """
    try:
        primary, shadow = plain_answer(pair.primary), plain_answer(pair.shadow)
    except NotPlainError:
        if pair.primary.body == pair.shadow.body:
            return pair
        raise
    return Pair(
        pair.number, pair.sides, pair.route, pair.request_id, False, primary, shadow, pair.primary_s, pair.shadow_s
    )


class NotPlainError(Exception):
    """An answer has objects, or large buffers, and not only plain data."""

    reason = OBJECTS


class TooLargeError(NotPlainError):
    """The pickle has values once that are many times in the answer."""

    reason = TOO_LARGE


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise NotPlainError

    def persistent_load(self, pid: Any) -> NoReturn:
        raise NotPlainError


def plain_answer(answer: Answer) -> Answer:
    """The answer as HTTP would carry it: text, bytes or JSON; a stream's items as a list.

    Raises:
        NotPlainError: the pickle has classes, or what is no JSON.
        TooLargeError: it has far more than its size says.
    """
    if answer.error:
        return answer
    values = _values(answer.body)
    value = values[0] if len(values) == 1 else values
    _check_size(value)
    if isinstance(value, str):
        return Answer(answer.status, "text/plain", value.encode("utf-8", "surrogatepass"))
    if isinstance(value, (bytes, bytearray)):
        return Answer(answer.status, "application/octet-stream", bytes(value))
    try:
        return Answer(answer.status, "application/json", json.dumps(value, separators=(",", ":")).encode())
    except (TypeError, ValueError, RecursionError):
        raise NotPlainError from None


def _check_size(value: Any) -> None:
    """Check that JSON of a value is not endless, before it is written: nothing breaks that off.

    Raises:
        TooLargeError: it has too many items and characters.
    """
    left, there = MAX_PLAIN, [value]
    while there:
        one = there.pop()
        if isinstance(one, (list, tuple, dict, str)):
            left -= len(one)
            if left < 0:
                raise TooLargeError
        if isinstance(one, dict):
            there += one.values()
        elif isinstance(one, (list, tuple)):
            there += one


def _values(data: bytes) -> list[Any]:
    source, values = io.BytesIO(data), []
    try:
        while source.tell() < len(data):
            values.append(_Unpickler(source).load())
    except (NotPlainError, TooSlowError):
        raise
    except Exception:  # noqa: BLE001 - a pickle that is none fails in any way
        raise NotPlainError from None
    return values
