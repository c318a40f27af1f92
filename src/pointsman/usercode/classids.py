"""What makes pickles of classes and functions by value the same in every process that has the same code.

cloudpickle gives each class that it pickles by value a random id, by which a process that loads the class twice gets
it once. Ids made of the content of a class do the same, and more: the pickle of a script's class is then the same each
time the script runs, so that a deploy of it is seen to change nothing, and objects that the script sends later are of
the class that its replicas have.
"""

from __future__ import annotations

import hashlib
import threading
import types
from collections.abc import Callable
from typing import Any

import cloudpickle
import cloudpickle.cloudpickle as tracker

#: Content of a class, with all that its methods refer to, of which an id is made. A larger one has a random id.
MAX_MEASURED = 16 * 2**20
#: Held while a class is measured: other threads must not see the ids that it has meanwhile.
_lock = threading.RLock()
# Names of cloudpickle's own. Without them each class has a random id, and all else works.
_by_class: Any = getattr(tracker, "_DYNAMIC_CLASS_TRACKER_BY_CLASS", None)
_by_id: Any = getattr(tracker, "_DYNAMIC_CLASS_TRACKER_BY_ID", None)


class TooLargeToMeasureError(Exception):
    """The content is over MAX_MEASURED."""


class Measure:
    """A file that keeps nothing but a digest of what is written to it."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._left = MAX_MEASURED

    def write(self, data: Any) -> int:
        """Take more content. Raises TooLargeToMeasureError."""
        size = memoryview(data).nbytes
        self._left -= size
        if self._left < 0:
            raise TooLargeToMeasureError
        self._digest.update(data)
        return size

    def result(self) -> str:
        """The digest of all that was written, 32 characters."""
        return self._digest.hexdigest()[:32]


def identify(cls: Any, measure: Callable[[], str]) -> None:
    """Give a class its id, unless it has one.

    Args:
        measure: returns a digest of its content.
    """
    if _by_class is None or _by_id is None or cls in _by_class:
        return
    with _lock:
        try:
            content = measure()
        except Exception:  # noqa: BLE001 - of user code, or something cannot be pickled: the pickle itself raises it, too
            return
        twins = 0
        name = content
        while _by_id.get(name, cls) is not cls:  # another class that is made alike is still another class
            twins += 1
            name = hashlib.sha256(f"{content} {twins}".encode()).hexdigest()[:32]
        _by_class[cls], _by_id[name] = name, cls


def without_id(reduced: tuple[Any, ...], cls: Any, stand_in: int, had_id: bool) -> tuple[Any, ...]:
    """What cloudpickle makes of a class, with a number in place of its id.

    Args:
        had_id: False if cloudpickle has just made one, which is then forgotten.
    """
    if _by_class is None or _by_id is None:
        return reduced
    own = _by_class.get(cls)
    if not had_id and own is not None:
        del _by_class[cls]
        _by_id.pop(own, None)
    make, arguments, *rest = reduced
    return make, tuple(stand_in if value is own and value is not None else value for value in arguments), *rest


def has_id(cls: Any) -> bool:
    """Whether a class has been given an id."""
    return _by_class is not None and cls in _by_class


def sorted_constants(code: types.CodeType) -> tuple[Any, tuple[Any, ...]]:
    """How cloudpickle reduces code, with the members of sets in it sorted: their order differs from process to
    process."""
    make, arguments = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    return make, tuple(tuple(map(_sorted_set, part)) if part is code.co_consts else part for part in arguments)


def with_sorted_sets(reduced: Any) -> Any:
    """What cloudpickle makes of a class or function, with the members sorted of each frozenset that is an attribute of
    the class or a global of the function. A set stays as it is: it can be changed, and may be shared."""
    if not isinstance(reduced, tuple) or len(reduced) < 3 or not isinstance(reduced[2], tuple):
        return reduced
    make, arguments, state, *rest = reduced
    return make, arguments, tuple(map(_with_sorted_members, state)), *rest


def _with_sorted_members(state: Any) -> Any:
    if not isinstance(state, dict):
        return state
    sorted_ = {name: _sorted_set(value) for name, value in state.items()}
    if isinstance(sorted_.get("__globals__"), dict):
        sorted_["__globals__"] = {name: _sorted_set(value) for name, value in sorted_["__globals__"].items()}
    return sorted_


def _sorted_set(value: Any) -> Any:
    return _SortedSet(value) if type(value) is frozenset else value


class _SortedSet:
    """A frozenset in a pickle."""

    def __init__(self, members: frozenset[Any]) -> None:
        self._members = sorted(members, key=lambda member: (type(member).__name__, repr(member)))

    def __reduce__(self) -> tuple[Any, ...]:
        return frozenset, (self._members,)
