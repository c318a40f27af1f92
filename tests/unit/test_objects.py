"""wire.pickling: what handles send is the same at the other end, and what is too large is refused uncopied."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.exceptions import UserCodeError
from pointsman.replica import answers
from pointsman.wire import pickling
from pointsman.wire.pickling import OUT_OF_BAND_BYTES, dumps, dumps_arguments, loads
from tests.properties import examples

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(data=plain, kwargs=st.dictionaries(st.text(max_size=5), plain, max_size=3))
def test_plain_values_are_the_same_again(data: Any, kwargs: dict[str, Any]) -> None:
    """Whatever plain value is passed, the other end has its equal, of the same type (RQ3, RQ4)."""
    assert loads(dumps_arguments(data, kwargs)) == (data, kwargs)


@examples(30)
@given(sizes=st.lists(st.integers(-20, 20).map(lambda step: OUT_OF_BAND_BYTES + step), min_size=1, max_size=5))
def test_buffers_around_the_border_are_the_same_again(sizes: list[int]) -> None:
    """Buffers just below and just above the size from which they stay out of the pickle mix in one call (CO2)."""
    buffers = [bytearray([number]) * size for number, size in enumerate(sizes)]
    data = [pickle.PickleBuffer(buffer) for buffer in buffers]
    assert [bytes(buffer) for buffer in loads(dumps(data))] == buffers


def test_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit a payload passes, a byte above it is refused with both numbers, in the pickle or outside (G9)."""
    for data in (b"x" * 1000, b"x" * (OUT_OF_BAND_BYTES + 1000), [bytearray(50), bytearray(OUT_OF_BAND_BYTES)]):
        monkeypatch.undo()
        size = _size(data)
        for limit in (size, size + 1):
            monkeypatch.setattr(pickling, "MAX_OBJECT_BYTES", limit)
            assert loads(dumps(data)) == data
        monkeypatch.setattr(pickling, "MAX_OBJECT_BYTES", size - 1)
        with pytest.raises(ValueError, match=f"^{size} bytes .* the object: the limit is {size - 1} bytes$"):
            dumps(data)
        with pytest.raises(UserCodeError, match=f"^{size} bytes .* of type {type(data).__name__}: the limit"):
            answers.dumps(data)


def _size(data: Any) -> int:
    """What counts: the pickle, and the buffers beside it."""
    buffers: list[pickle.PickleBuffer] = []
    value = pickle.PickleBuffer(data) if isinstance(data, bytes) and len(data) >= OUT_OF_BAND_BYTES else data
    packed = pickle.dumps(value, 5, buffer_callback=buffers.append)
    return len(packed) + sum(buffer.raw().nbytes for buffer in buffers)


class Odd:
    """Says that it is defined where nothing can be imported from."""


def test_what_is_defined_in_a_script_travels_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class of the caller's own script, small or beside large buffers, arrives though nobody can import it (HA4)."""
    monkeypatch.setattr(Odd, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Odd", Odd, raising=False)
    for beside in (b"", bytes(OUT_OF_BAND_BYTES)):
        packed = dumps([Odd(), pickle.PickleBuffer(beside)])
        monkeypatch.delattr(sys.modules["__main__"], "Odd")
        thing, buffer = loads(packed)
        assert type(thing).__name__ == "Odd"
        assert bytes(buffer) == beside
        monkeypatch.setattr(sys.modules["__main__"], "Odd", Odd, raising=False)
