"""Pickles Python objects for handles, only between authenticated processes of one instance.

Small objects are a plain pickle. Large buffers inside (numpy arrays; ``bytes`` and ``bytearray`` at the top level) stay
out of the pickle, by protocol 5 (PEP 574), and are used at the other end where they were received, without a copy:

    pickle      \\x80 ...
    or          0, number of buffers, size of the pickle, (kind, size) of each buffer; pickle; buffers, each at a
                multiple of 16

One copy is made when sending, into the bytes of the message: the caller may change its array right afterwards.
"""

from __future__ import annotations

import pickle
from functools import partial
from struct import Struct
from typing import Any

from pointsman.exceptions import TooLargeError
from pointsman.limits import MAX_BODY
from pointsman.usercode import byvalue
from pointsman.usercode.picklenames import may_name_unfindable

MAX_OBJECT_BYTES = MAX_BODY
ARGUMENTS = "the call's arguments"
OUT_OF_BAND_BYTES = 16 * 1024
"""Buffers below this many bytes stay in the pickle: for them a copy is cheaper than the bookkeeping."""

_BEGIN = Struct("<II")  # a first byte that no pickle has, and the number of buffers
_ENTRY = Struct("<QQ")  # what a buffer is to become, and its size in bytes
_ALIGN = 16
_PLAIN, _BYTES, _BYTEARRAY = range(3)
_ATOMS = frozenset((type(None), bool, int, float, str, bytes))
"""Types that contain neither buffers nor classes."""


def dumps(value: Any, *, what: str = "the object") -> bytes:
    """Pickle an object. Classes and functions that other processes cannot import are pickled by value.

    Args:
        what: name of the object in errors.

    Raises:
        TypeError: it cannot be pickled.
        TooLargeError: it takes more than 2 GiB less 16 MiB.
    """
    value = _as_buffer(value)
    if type(value) in _ATOMS:
        return _check_limit(pickle.dumps(value, 5), what)
    buffers: list[memoryview] = []
    keep = partial(_keep_outside, buffers)
    try:
        packed = pickle.dumps(value, 5, buffer_callback=keep)
        by_reference = not may_name_unfindable(packed)
    except Exception:  # noqa: BLE001 - lambdas, local classes: pickled by value below, or that raises
        by_reference = False
    if not by_reference:
        buffers.clear()
        try:
            packed = byvalue.dumps(value, buffer_callback=keep)
        except Exception as error:
            raise TypeError(f"{what} cannot be pickled: {error}") from error
    _check_limit(packed, what, sum([buffer.nbytes for buffer in buffers]))
    return _join(packed, buffers) if buffers else packed


def dumps_arguments(data: Any, kwargs: dict[str, Any]) -> bytes:
    """Pickle a call's arguments. Raises as :func:`dumps`."""
    data = _as_buffer(data)
    if kwargs:
        kwargs = {name: _as_buffer(value) for name, value in kwargs.items()}
    elif type(data) in _ATOMS:
        return _check_limit(pickle.dumps((data, kwargs), 5), ARGUMENTS)
    return dumps((data, kwargs), what=ARGUMENTS)


def loads(data: bytes | bytearray | memoryview) -> Any:
    """Unpickle an object. Runs code, so only for data from an authenticated process of the instance.

    Arrays inside are views of ``data``; they are writable if it is.

    Raises:
        Exception: whatever user code raises while its objects are rebuilt.
    """
    if data[0]:
        return pickle.loads(data)
    _, count = _BEGIN.unpack_from(data)
    view = memoryview(data)
    at = _BEGIN.size + (count + 1) * _ENTRY.size
    entries = list(_ENTRY.iter_unpack(view[_BEGIN.size : at]))
    parts = []
    for _, size in entries:
        parts.append(view[at : at + size])
        at = _aligned(at + size)
    buffers = [_rebuild_buffer(kind, part) for (kind, _), part in zip(entries[1:], parts[1:], strict=True)]
    return pickle.loads(parts[0], buffers=buffers)


class Portable:
    """Pickles as an exception that is rebuilt without calling its constructor, which ``args`` may not fit: exceptions
    keep positional arguments only, and those of Starlette's ``HTTPException`` are usually given by name."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        error = self._error
        if type(error).__reduce__ is not BaseException.__reduce__:
            return error.__reduce__()  # type: ignore[return-value]
        return _rebuild_error, (type(error), error.args, vars(error))


def _rebuild_error(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = cls.__new__(cls, *args)
    vars(error).update(state)
    return error


def _check_limit(packed: bytes, what: str, buffer_bytes: int = 0) -> bytes:
    """Return a pickle unchanged.

    Raises:
        TooLargeError: the pickle and its buffers are too large together.
    """
    size = len(packed) + buffer_bytes
    if size > MAX_OBJECT_BYTES:
        raise TooLargeError(f"{size} bytes are too many for {what}: the limit is {MAX_OBJECT_BYTES} bytes")
    return packed


def _as_buffer(value: Any) -> Any:
    """Wrap large ``bytes`` and ``bytearray``, which pickle does not treat as out-of-band buffers by itself."""
    if type(value) in (bytes, bytearray) and len(value) >= OUT_OF_BAND_BYTES:
        return pickle.PickleBuffer(value)
    return value


def _keep_outside(buffers: list[memoryview], buffer: pickle.PickleBuffer) -> bool:
    """Callback of pickle: True leaves a buffer in the pickle."""
    view = buffer.raw()
    if view.nbytes < OUT_OF_BAND_BYTES:
        return True
    buffers.append(view)
    return False


def _join(packed: bytes, buffers: list[memoryview]) -> bytes:
    entries = [_ENTRY.pack(_PLAIN, len(packed))]
    parts: list[bytes | memoryview] = [packed]
    at = _BEGIN.size + (len(buffers) + 1) * _ENTRY.size + len(packed)
    for buffer in buffers:
        padding = bytes(_aligned(at) - at)
        parts += [padding, buffer]
        at += len(padding) + buffer.nbytes
        entries.append(_ENTRY.pack(_kind(buffer.obj), buffer.nbytes))
    return b"".join((_BEGIN.pack(0, len(buffers)), *entries, *parts))


def _kind(source: Any) -> int:
    if type(source) is bytes:
        return _BYTES
    return _BYTEARRAY if type(source) is bytearray else _PLAIN


def _rebuild_buffer(kind: int, part: memoryview) -> Any:
    if kind == _BYTES:
        return bytes(part)
    return bytearray(part) if kind == _BYTEARRAY else part


def _aligned(at: int) -> int:
    return -(-at // _ALIGN) * _ALIGN
