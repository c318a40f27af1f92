"""replica.jsonform: what values look like as JSON, and what is said of those that have no such form."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import ipaddress
import json
import pathlib
import types
import uuid
from typing import Any

import msgspec
import numpy as np
import pydantic
import pytest

from pointsman.exceptions import AnswerError
from pointsman.replica.jsonform import to_json

NOON = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.timezone.utc)
DAY = datetime.date(2026, 1, 2)
ID = uuid.UUID(int=5)


class Colour(enum.Enum):
    RED = "red"
    DAY = DAY


class Level(enum.IntEnum):
    HIGH = 7


class Name(str, enum.Enum):
    A = "a"


Pair = collections.namedtuple("Pair", "a b")


@dataclasses.dataclass
class Point:
    x: object


class Strict(pydantic.BaseModel):
    model_config = {"arbitrary_types_allowed": True}
    values: np.ndarray


class Record(msgspec.Struct):
    at: datetime.date


class Table:
    """Looks like a pandas DataFrame."""

    columns = ("name", "score")

    def __init__(self, *rows: dict[Any, Any]) -> None:
        self.rows = rows

    def to_dict(self, orient: str = "dict") -> Any:
        assert orient == "records"
        return list(self.rows)


class Column:
    """Looks like a pandas Series."""

    def __init__(self, *values: object) -> None:
        self.values = values

    def tolist(self) -> list[object]:
        return list(self.values)

    def to_dict(self) -> Any:
        raise AssertionError("a Series is its values")


VALUES: list[tuple[object, object]] = [
    (NOON, "2026-01-02T12:00:00+00:00"),
    (DAY, "2026-01-02"),
    (datetime.time(1, 2), "01:02:00"),
    (datetime.timedelta(minutes=1.5), 90.0),
    (decimal.Decimal("1.5"), 1.5),
    (decimal.Decimal("12345678901234567890"), 12345678901234567890),
    (Colour.RED, "red"),
    (Colour.DAY, "2026-01-02"),
    (Level.HIGH, 7),
    (Name.A, "a"),
    (ID, str(ID)),
    (pathlib.Path("/a/b"), "/a/b"),
    ({2, 1, 3}, [1, 2, 3]),
    (frozenset("ba"), ["a", "b"]),
    (collections.deque([1, DAY]), [1, "2026-01-02"]),
    (range(3), [0, 1, 2]),
    ({"a": 1}.keys(), ["a"]),
    (types.MappingProxyType({"a": {DAY}}), {"a": ["2026-01-02"]}),
    (Pair(1, DAY), [1, "2026-01-02"]),
    (ipaddress.ip_address("::1"), "::1"),
    (np.datetime64("2026-01-02"), "2026-01-02"),
    (np.datetime64("2026-01-02T12:00:00", "ns"), "2026-01-02T12:00:00"),
    (np.array(["2026-01-02"], dtype="datetime64[ns]"), ["2026-01-02T00:00:00"]),
    (np.timedelta64(1500, "ms"), 1.5),
    (np.timedelta64(1_500_000_000, "ns"), 1.5),
    (Point({np.int8(1): NOON}), {"x": {"1": "2026-01-02T12:00:00+00:00"}}),
    (Strict(values=np.eye(2)), {"values": [[1, 0], [0, 1]]}),
    ({"u": pydantic.AnyUrl("http://x/")}, {"u": "http://x/"}),
    (Record(DAY), {"at": "2026-01-02"}),
    (Table({"name": "a", "score": np.float32(0.5)}), [{"name": "a", "score": 0.5}]),
    ({"t": Table({np.int64(0): NOON})}, {"t": [{"0": "2026-01-02T12:00:00+00:00"}]}),
    (Column(1, np.int64(2), DAY), [1, 2, "2026-01-02"]),
]


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=lambda value: type(value).__name__)
def test_values_have_a_form(value: object, expected: object) -> None:
    """What models commonly return has a JSON form, at the top and deep inside (RP3)."""
    assert json.loads(to_json(value)) == expected
    assert json.loads(to_json({"a": [{"b": (value,)}]})) == {"a": [{"b": [expected]}]}


KEYS: list[tuple[Any, str]] = [
    (np.int64(1), "1"),
    (np.uint8(255), "255"),
    (np.float32(0.5), "0.5"),
    (np.float64(0.5), "0.5"),
    (np.bool_(True), "true"),
    (np.str_("x"), "x"),
    (np.datetime64("2026-01-02"), "2026-01-02"),
    (b"bytes", "bytes"),
    (Colour.RED, "red"),
    (Level.HIGH, "7"),
    (Name.A, "a"),
    (DAY, "2026-01-02"),
    (ID, str(ID)),
    (pathlib.PurePosixPath("a/b"), "a/b"),
    (decimal.Decimal("1.5"), "1.5"),
    (None, "null"),
    (1, "1"),
    (False, "false"),
]


@pytest.mark.parametrize(("key", "expected"), KEYS, ids=lambda value: type(value).__name__)
def test_keys_have_a_form(key: object, expected: str) -> None:
    """Labels of numpy's types and the like are keys at any depth, in dicts, dataclasses and models (RP3)."""
    assert json.loads(to_json({key: 1})) == {expected: 1}
    assert json.loads(to_json([Point({"a": {key: {key: 1}}})])) == [{"x": {"a": {expected: {expected: 1}}}}]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"scores": [0, 1, 2, float("nan")]}, r"\$\.scores\[3\] is nan.*None"),
        ([{"a": -float("inf")}], r"\$\[0\]\.a is -inf"),
        (float("inf"), r"\$ is inf"),
        ({"a b": np.array([[0, np.nan]])}, r"\$\['a b'\]\[0\]\[1\] is nan"),
        ({np.int64(4): np.float32("nan")}, r"\$\['4'\] is nan"),
        (Table({"score": 1.0}, {"score": float("nan")}), r"\$\[1\]\.score is nan"),
        (Strict(values=np.array([1, np.inf])), r"\$\.values\[1\] is inf"),
        ([decimal.Decimal("NaN")], r"\$\[0\]: NaN"),
        ([decimal.Decimal("1E+999999999")], r"\$\[0\] is inf"),
        ({"a": {float("nan"): 1}}, r"a key of \$\.a is nan"),
        ({"a": {(1, 2): 3}}, r"a key of \$\.a is a tuple"),
        ({"a": [object()]}, r"\$\.a\[0\]: object has no JSON form"),
        ({"a": 1j}, r"\$\.a: complex has no"),
        ({"a": b"\xff"}, r"\$\.a is bytes that are not UTF-8.*base64"),
        ({"a": int}, r"\$\.a: the class int"),
        ("\udc80", "surrogate"),
    ],
)
def test_an_error_says_where(value: object, text: str) -> None:
    """What has no form is an error whose text says where it is, and what to do (RP3)."""
    with pytest.raises(AnswerError, match=text):
        to_json(value)


def test_a_value_that_holds_itself_is_an_error() -> None:
    """Circles and endless depths are errors, not crashes (RP3)."""
    circle: dict[str, Any] = {"a": []}
    circle["a"].append(circle)
    with pytest.raises(AnswerError, match=r"\$\.a\[0\] holds itself"):
        to_json(circle)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(AnswerError, match="RecursionError"):
        to_json(deep)


def test_what_a_value_raises_stays_out_of_the_text() -> None:
    """A value that raises when it is asked for its form is named; what it said is in the traceback only (S13)."""

    class Shy:
        def tolist(self) -> Any:
            raise RuntimeError("secret")

    with pytest.raises(AnswerError, match=r"\$\.a is a Shy.*RuntimeError") as caught:
        to_json({"a": Shy()})
    assert "secret" not in str(caught.value)
    assert "secret" in str(caught.value.__cause__)


def test_pandas() -> None:
    """A DataFrame is its records, a Series its values (RP3)."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed; stand-ins are tested above")
    frame = pandas.DataFrame({"n": np.arange(2), "at": pandas.to_datetime([DAY, DAY])}, index=["x", "y"])
    stamp = "2026-01-02T00:00:00"
    assert json.loads(to_json(frame)) == [{"n": 0, "at": stamp}, {"n": 1, "at": stamp}]
    assert json.loads(to_json({"at": frame["at"]})) == {"at": [stamp, stamp]}
    frame.loc["y", "at"] = pandas.NaT
    with pytest.raises(AnswerError, match=r"\$\[1\]\.at: NaT"):
        to_json(frame)
