"""Numpy arrays in bodies. Imported only where an annotation names an array, so that numpy is there."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from pointsman.usercode.misfits import Misfit

MAX_HEADER = 10_000
"""Bytes of the header of an npy file, as numpy's own reader has it."""
MAX_TEXT_BYTES = 64 * 1024 * 1024
"""Most bytes that text from nested lists may take as an array."""
NUMBER_AS_TEXT, BYTES_OF_A_CHARACTER = 32, 4
"""Room that a number takes among text, in characters."""
_PLAIN = "biufcmMU"
"""Kinds of types that arrays from outside may have: numbers, truth values, times, text. Never objects."""


def from_npy(data: bytes) -> Any:
    """The array in an npy file. Its size is that of the data, whatever its header claims; no object is unpickled.

    Raises:
        Misfit: it is no such file.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, by_columns, dtype = readers[version](file, max_header_size=MAX_HEADER)
        rest = data[file.tell() :]
        fits = all(type(size) is int and size >= 0 for size in shape)
        if not fits or dtype.kind not in _PLAIN or math.prod(shape) * dtype.itemsize != len(rest):
            raise ValueError
        flat = np.frombuffer(bytearray(rest), dtype) if rest else np.empty(0, dtype)
        return flat.reshape(shape, order="F" if by_columns else "C")
    except (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise Misfit.of("it is no npy file of numbers, or is not complete", "npy_invalid") from None


def from_lists(value: Any, wanted: Any, *, has_text: bool = True) -> Any:
    """The array of nested lists.

    Args:
        wanted: the type of its elements; None for any.
        has_text: whether there may be text in it.

    Raises:
        Misfit: lists of one level differ in length, an element is no number, truth value or text, or there is text that
            takes far more room in an array.
    """
    if has_text and type(value) is list:
        _check_text(value)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        array = None
    if array is None or array.dtype.kind not in _PLAIN:
        raise Misfit.of("Input should be nested lists of numbers, those of one level of one length", "array_type")
    if not array.size and wanted is not None and isinstance(wanted, np.dtype):
        return array.astype(wanted)  # an empty list says nothing of its elements
    return cast(array, wanted)


def _check_text(value: list[Any]) -> None:
    """Each element of an array with text has room for the longest one: one long text and a million empty ones, 3 MB of
    JSON, would be terabytes, and are refused before numpy asks for them."""
    count, longest, lists = 0, 0, [value]
    while lists:
        part = lists.pop()
        count += len(part)
        found = set(map(type, part))
        if str in found:
            longest = max(longest, NUMBER_AS_TEXT, *(len(item) for item in part if type(item) is str))
        if list in found:
            lists += [item for item in part if type(item) is list]
    if count * longest * BYTES_OF_A_CHARACTER > MAX_TEXT_BYTES:
        raise Misfit.of("Input should be text that takes less room as an array", "array_text")


def as_array(value: Any, wanted: Any, *, has_text: bool = True) -> Any:
    """A Python object as an array: an array as it is. Arguments and exceptions as of :func:`from_lists`."""
    return value if isinstance(value, np.ndarray) else from_lists(value, wanted, has_text=has_text)


def cast(array: Any, wanted: Any) -> Any:
    """An array with the wanted type of elements; itself if it has that type.

    Raises:
        Misfit: it would lose more than precision, as numbers with a fraction would in an array of whole ones, and
            large ones in one of small ones.
    """
    if wanted is None or array.dtype == wanted:
        return array
    if isinstance(wanted, np.dtype):
        whole = array.dtype.kind in "iu" and wanted.kind in "iu"  # those of JSON are signed to numpy
        if whole or (array.dtype.kind in _PLAIN and np.can_cast(array.dtype, wanted, "same_kind")):
            return _same_values(array, wanted)
    elif np.issubdtype(array.dtype, wanted):
        return array
    elif issubclass(np.float64, wanted) and array.dtype.kind in "iu":
        return array.astype(np.float64)
    name = getattr(wanted, "__name__", str(wanted))
    found = "text" if array.dtype.kind == "U" else array.dtype.name  # its name, as str672, counts bits
    raise Misfit.of(f"Input should be an array of {name}, not of {found}", "array_dtype")


def _same_values(array: Any, wanted: Any) -> Any:
    with np.errstate(over="ignore"):
        made = array.astype(wanted)
    if wanted.kind in "iu":
        same = np.array_equal(made, array)
    else:
        same = wanted.kind not in "fc" or np.array_equal(np.isfinite(made), np.isfinite(array))
    if not same:
        raise Misfit.of(f"Input should be numbers that fit into {wanted.name}", "array_range")
    return made


def to_npy(array: Any) -> bytes:
    """An array as an npy file.

    Raises:
        ValueError: it holds objects.
    """
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return file.getvalue()
