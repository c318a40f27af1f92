"""Encodes values of user code as JSON. Called for each answer that is not text, bytes or a response.

Most values are encoded by the C encoder of ``json`` in one go. Only a value that it refuses (other keys than JSON has,
NaN, a type without a JSON form) is walked, which makes it plain or finds the place of the problem. Types of libraries
are recognized by name or by their methods, so that no library is imported for it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import deque
from collections.abc import Callable, ItemsView, KeysView, Mapping, Sequence, Set, ValuesView
from typing import Any

from pointsman.exceptions import AnswerError

ROOT = "$"
_FINE_UNITS = ("[ns]", "[ps]", "[fs]", "[as]")
"""Units of numpy times that are finer than Python's: for these ``tolist`` gives plain integers."""


MAX_DIGITS = 300
"""Most digits of a Decimal without a fraction that becomes an int; a larger one becomes a float."""


class _NoJSONForm(Exception):
    """A value has no JSON form. The text says what to do. Clients may see it, so it contains no values."""


def to_json(value: Any) -> bytes:
    """Encode plain values, and all that :func:`jsonable` knows, nested at any depth and as keys.

    Raises:
        AnswerError: a value inside has no JSON form; the text says where, such as ``$.scores[3]``.
    """
    try:
        return _encode(value).encode()
    except Exception as error:  # noqa: BLE001 - values have methods for their own form, which are user code
        refused = error
    try:
        return _encode(_plain(value, ROOT, ())).encode()
    except _NoJSONForm as error:
        reason, cause = str(error), error.__cause__
    except UnicodeEncodeError:
        reason, cause = "a text in it holds a lone surrogate, which is no Unicode", None
    except Exception:  # noqa: BLE001 - as above; nested too deep, as a rule
        reason, cause = type(refused).__name__, refused
    raise AnswerError(f"a value of type {type(value).__name__} cannot be turned into JSON: {reason}") from cause


def jsonable(value: Any) -> Any:
    """Convert a value that JSON does not know, in one step: the result may need conversion again.

    Raises:
        _NoJSONForm: there is no conversion.
        Exception: raised by the value's own methods, which are user code.
    """
    if isinstance(value, (bytes, bytearray)):
        return value.decode()
    if hasattr(value, "tolist"):  # numpy arrays and scalars, and what imitates them; pandas Series
        return _in_microseconds(value).tolist()
    if hasattr(value, "model_dump"):
        return _dumped(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for cls in type(value).__mro__:
        form = _FORMS.get((cls.__module__, cls.__name__))
        if form is not None:
            return form(value)
    return _by_duck_type(value)


def _by_duck_type(value: Any) -> Any:
    if isinstance(value, type):
        raise _NoJSONForm(f"the class {value.__name__} has no JSON form; return an object or its fields")
    if hasattr(value, "__fspath__"):
        return value.__fspath__()
    for method in ("to_dicts", "to_pylist", "to_list"):  # polars, pyarrow
        if hasattr(value, method):
            return getattr(value, method)()
    if hasattr(value, "to_dict") and hasattr(value, "columns"):  # pandas
        return value.to_dict(orient="records")
    fields = getattr(value, "__attrs_attrs__", None)
    if fields is not None:
        return {field.name: getattr(value, field.name) for field in fields}
    fields = getattr(value, "__struct_fields__", None)  # msgspec
    if fields is not None:
        return {name: getattr(value, name) for name in fields}
    if isinstance(value, Mapping) and not hasattr(value, "scope"):  # a request is one, and no answer
        return dict(value)
    if isinstance(value, Set):
        return _ordered(value)
    if isinstance(value, (Sequence, deque, KeysView, ValuesView, ItemsView)):
        return list(value)
    raise _NoJSONForm(f"{type(value).__name__} has no JSON form; return a dict, a list, text or a Response")


def _in_microseconds(value: Any) -> Any:
    dtype: Any = getattr(value, "dtype", None)
    kind = getattr(dtype, "kind", None)
    if (kind == "M" or kind == "m") and str(getattr(dtype, "str", "")).endswith(_FINE_UNITS):
        return value.astype(f"{kind}8[us]")
    return value


def _dumped(model: Any) -> Any:
    try:
        return model.model_dump(mode="json")
    except Exception:  # noqa: BLE001 - a field that pydantic cannot convert, such as an array; jsonable may
        return model.model_dump()


def _ordered(values: Set[Any]) -> list[Any]:
    """A set as a list: sorted if its values can be, so that the order does not depend on the process."""
    try:
        return sorted(values)
    except TypeError:
        return list(values)


def _moment(value: Any) -> str:
    if value != value:  # pandas' NaT is a datetime
        raise _NoJSONForm("NaT has no JSON form; replace it, for example by None")
    text: str = value.isoformat()
    return text


def _number(value: Any) -> int | float:
    """A Decimal as an int if it has no fraction, otherwise as a float."""
    if not value.is_finite():
        raise _NoJSONForm(f"{value} is no number in JSON; replace it, for example by None")
    whole = value.as_tuple().exponent >= 0 and value.adjusted() < MAX_DIGITS
    return int(value) if whole else float(value)


_FORMS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("datetime", "date"): _moment,  # datetime is a date
    ("datetime", "time"): _moment,
    ("datetime", "timedelta"): lambda value: value.total_seconds(),
    ("decimal", "Decimal"): _number,
    ("enum", "Enum"): lambda value: value.value,
    ("uuid", "UUID"): str,
    ("ipaddress", "_IPAddressBase"): str,
    ("zoneinfo", "ZoneInfo"): str,
    ("pydantic.networks", "_BaseUrl"): str,
    ("pydantic.networks", "_BaseMultiHostUrl"): str,
}
"""Conversions by module and name of a class in the value's MRO: the class itself need not be imported here."""

_encode = json.JSONEncoder(default=jsonable, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _plain(value: Any, path: str, above: tuple[int, ...]) -> Any:
    """Convert a value, and all values in it, to what JSON knows.

    Args:
        path: its place, for errors.
        above: ids of the values that contain it, to detect cycles.

    Raises:
        _NoJSONForm: a value has no JSON form.
    """
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _NoJSONForm(f"{path} is {value!r}, which is no number in JSON; replace it, for example by None")
        return value
    if id(value) in above:
        raise _NoJSONForm(f"{path} holds itself")
    above = (*above, id(value))
    if isinstance(value, dict):
        return {_key(key, path): _plain(item, path + _step(key), above) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{path}[{index}]", above) for index, item in enumerate(value)]
    return _plain(_json_form(value, path), path, above)


def _json_form(value: Any, path: str) -> Any:
    try:
        return jsonable(value)
    except UnicodeDecodeError:
        raise _NoJSONForm(f"{path} is bytes that are not UTF-8; send them as text, for example by base64") from None
    except _NoJSONForm as error:
        raise _NoJSONForm(f"{path}: {error}") from None
    except RecursionError:
        raise
    except Exception as error:
        kind = type(value).__name__
        raise _NoJSONForm(f"{path} is a {kind}, and making its JSON form raised {type(error).__name__}") from error


def _key(key: Any, path: str) -> str | int | float | None:
    """Convert a key to one that the JSON encoder accepts: str, number, bool or None."""
    while not (key is None or isinstance(key, (str, int, float))):
        found = _json_form(key, f"a key of {path}")
        if isinstance(found, (dict, list, tuple)) or found is key:
            raise _NoJSONForm(
                f"a key of {path} is a {type(key).__name__}; keys must be text, numbers, True, False or None"
            )
        key = found
    if isinstance(key, float) and not math.isfinite(key):
        raise _NoJSONForm(f"a key of {path} is {key!r}, which is no number in JSON")
    return key


def _step(key: Any) -> str:
    text = key if isinstance(key, str) else str(key)
    return f".{text}" if text.isidentifier() else f"[{text!r}]"
