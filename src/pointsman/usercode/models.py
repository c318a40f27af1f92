"""Forms of typed values: what an annotation means for bytes that come in and for values that go out.

    annotation -> form_of -> a form: read bytes, take a Python object, fit an answer, write it, describe it

Pydantic does most of it; classes of msgspec and numpy arrays have forms of their own. None of these is imported unless
an annotation asks for it: a replica without typed callables pays nothing.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from pointsman.usercode import kinds
from pointsman.usercode.misfits import Misfit, misfit_of_msgspec, misfit_of_pydantic

JSON = "application/json"
MSGPACK = "application/msgpack"
NPY = "application/x-npy"

_BAD_JSON, _BAD_MSGPACK = "json_invalid", "msgpack_invalid"
REF = "#/components/schemas/{}"
Described = tuple[dict[str, Any], dict[str, Any]]
LARGE_BODY = 4 * 1024
"""Bodies of more bytes are checked up to the first bad item of a list or dict: 600 KB can hold a million mistakes, and
to note all of them took 600 MB."""


class Form:
    """How values of one annotation are read and written.

    Attributes:
        medias: media types of bodies that can be read.
    """

    medias: tuple[str, ...] = (JSON, MSGPACK)

    def read(self, data: bytes, media: str) -> Any:
        """The value in a body. Raises ``Misfit``, or whatever a validator of user code raises."""
        raise NotImplementedError

    def take(self, value: Any) -> Any:
        """A Python object as a value: an instance as it is, anything else validated. Raises as :meth:`read`."""
        raise NotImplementedError

    def json(self, value: Any) -> bytes:
        """A value as JSON."""
        raise NotImplementedError

    def plain(self, value: Any) -> Any:
        """A value in dicts, lists, text and numbers."""
        raise NotImplementedError

    def describe(self, *, answer: bool) -> Described:
        """The JSON schema of values that come in, or of answers, and the schemas that it refers to by ``REF``."""
        raise NotImplementedError


def form_of(annotation: Any) -> Form:
    """The form of an annotation.

    Raises:
        TypeError: no value can be read for it; the text says why.
    """
    found = set(kinds.leaves(annotation))
    alone = kinds.without_none(annotation)
    if kinds.array_class(alone) is not None:
        return ArrayForm(alone, optional=alone is not annotation)
    if kinds.STRUCT in found and not found - {kinds.STRUCT, kinds.OTHER}:
        return StructForm(annotation)
    return PydanticForm(annotation)


class PydanticForm(Form):
    """Pydantic models, dataclasses, typed dicts, and all that pydantic can validate."""

    def __init__(self, annotation: Any) -> None:
        import pydantic

        self._error = pydantic.ValidationError
        name = kinds.name_of(annotation)
        try:
            adapter: Any = pydantic.TypeAdapter(_for_pydantic(annotation))
            adapter.core_schema  # noqa: B018 - a class that is not complete raises here
        except (pydantic.errors.PydanticUserError, pydantic.errors.PydanticUndefinedAnnotation, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise TypeError(f"values of {name} cannot be validated: {reason}") from error
        self._adapter = adapter
        # hot: the adapter's own methods do no more than to call these, and take twice as long for a small body.
        self._validator, self._serializer = adapter.validator, adapter.serializer
        self._quick: Any = None

    def read(self, data: bytes, media: str) -> Any:
        validator = self._validator if len(data) <= LARGE_BODY else self._quick_one()
        try:
            if media == MSGPACK:
                return validator.validate_python(_unpacked(data))
            return validator.validate_json(data)
        except self._error as error:
            raise misfit_of_pydantic(error) from None
        except RecursionError:
            raise Misfit.of("it is nested too deep", "recursion_loop") from None

    def take(self, value: Any) -> Any:
        try:
            return self._validator.validate_python(value, from_attributes=True)
        except self._error as error:
            raise misfit_of_pydantic(error) from None

    def texts(self, value: str) -> Any:
        """The value of a text such as one of a query string."""
        try:
            return self._validator.validate_strings(value)
        except self._error as error:
            raise misfit_of_pydantic(error) from None

    def json(self, value: Any) -> bytes:
        data: bytes = self._serializer.to_json(value, by_alias=True)
        return data

    def plain(self, value: Any) -> Any:
        return self._serializer.to_python(value, mode="json", by_alias=True)

    def describe(self, *, answer: bool) -> Described:
        mode = "serialization" if answer else "validation"
        schema = self._adapter.json_schema(ref_template=REF.replace("{}", "{model}"), mode=mode)
        return schema, schema.pop("$defs", {})

    def _quick_one(self) -> Any:
        """A validator that gives up at the first bad item of a list or dict; the usual one if pydantic has none."""
        if self._quick is None:
            self._quick = _quick_validator(self._adapter)
        return self._quick


def _quick_validator(adapter: Any) -> Any:
    import pydantic_core

    schema = _with_fail_fast(adapter.core_schema)
    attempts: tuple[dict[str, Any], ...] = ({"_use_prebuilt": False}, {})
    for options in attempts:  # else inner models would be checked by their own validators
        try:
            return pydantic_core.SchemaValidator(schema, None, **options)
        except (TypeError, pydantic_core.SchemaError):
            continue  # an older version, which does not know the option, or no `fail_fast`
    return adapter.validator


_MANY = frozenset(("list", "set", "frozenset", "tuple", "dict"))
_NO_SCHEMAS = frozenset(("default", "metadata", "expected", "members", "config"))


def _with_fail_fast(schema: Any) -> Any:
    if isinstance(schema, dict):
        copy = {key: part if key in _NO_SCHEMAS else _with_fail_fast(part) for key, part in schema.items()}
        return {**copy, "fail_fast": True} if schema.get("type") in _MANY else copy
    if isinstance(schema, (list, tuple)):
        return type(schema)(map(_with_fail_fast, schema)) if type(schema) in (list, tuple) else schema
    return schema


def _for_pydantic(annotation: Any) -> Any:
    """An annotation in which pydantic finds only what it knows: Structs and arrays check themselves."""

    def replace(leaf: Any) -> Any:
        kind = kinds.kind_of(leaf)
        if kind == kinds.STRUCT:
            return _checked_by(StructForm(leaf))
        if kind == kinds.ARRAY:
            return _checked_by(ArrayForm(leaf))
        return kinds.modern_typed_dict(leaf) if kind == kinds.TYPED_DICT else leaf

    return kinds.mapped(annotation, replace)


def _checked_by(form: Form) -> Any:
    from typing import Annotated

    from pydantic import PlainSerializer, PlainValidator, WithJsonSchema
    from pydantic_core import PydanticCustomError

    def check(value: Any) -> Any:
        try:
            return form.take(value)
        except Misfit as misfit:
            detail = misfit.details[0]
            where = "".join(f"{part}: " for part in detail["loc"])
            text = (where + detail["msg"]).replace("{", "(").replace("}", ")")
            raise PydanticCustomError(detail["type"], text) from None

    described = WithJsonSchema({"description": repr(form)})
    return Annotated[Any, PlainValidator(check), PlainSerializer(form.plain), described]


class StructForm(Form):
    """Classes of msgspec, alone or in lists, dicts and unions."""

    def __init__(self, annotation: Any) -> None:
        self._annotation = annotation
        try:
            self._json = msgspec.json.Decoder(annotation)
            self._msgpack = msgspec.msgpack.Decoder(annotation)
        except (TypeError, NameError) as error:
            raise TypeError(f"values of {kinds.name_of(annotation)} cannot be validated: {error}") from error
        self._classes = tuple(_structs_in(msgspec.inspect.type_info(annotation), set()))

    def __repr__(self) -> str:
        return kinds.name_of(self._annotation)

    def read(self, data: bytes, media: str) -> Any:
        try:
            return (self._msgpack if media == MSGPACK else self._json).decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise misfit_of_msgspec(error, _BAD_MSGPACK if media == MSGPACK else _BAD_JSON) from None

    def take(self, value: Any) -> Any:
        try:
            return msgspec.convert(value, self._annotation, from_attributes=True)
        except (msgspec.ValidationError, RecursionError) as error:
            raise misfit_of_msgspec(error) from None

    def json(self, value: Any) -> bytes:
        return msgspec.json.encode(self._declared(value))

    def plain(self, value: Any) -> Any:
        return msgspec.to_builtins(self._declared(value))

    def _declared(self, value: Any) -> Any:
        """A value with the fields that the annotation has: msgspec writes those of the object, and a class that
        inherits from the annotated one may have more, which are nobody else's."""
        if any(cls.__subclasses__() for cls in self._classes):
            return self._msgpack.decode(msgspec.msgpack.encode(value))
        return value

    def describe(self, *, answer: bool) -> Described:
        (schema,), components = msgspec.json.schema_components(
            [self._annotation], ref_template=REF.replace("{}", "{name}")
        )
        return schema, components


def _structs_in(info: Any, seen: set[Any]) -> set[Any]:
    """The classes of msgspec in an annotation, those of their fields included."""
    if isinstance(info, (tuple, list)):
        for part in info:
            _structs_in(part, seen)
    elif isinstance(info, msgspec.inspect.StructType):
        if info.cls not in seen:
            seen.add(info.cls)
            _structs_in(info.fields, seen)
    elif isinstance(info, (msgspec.inspect.Type, msgspec.inspect.Field)):
        for name in info.__struct_fields__:
            _structs_in(getattr(info, name), seen)
    return seen


class ArrayForm(Form):
    """Numpy arrays: nested lists, or the npy format, which is read without pickle."""

    medias = (JSON, MSGPACK, NPY)

    def __init__(self, annotation: Any, *, optional: bool = False) -> None:
        from pointsman.usercode import arrays

        self._arrays = arrays
        self._optional = optional
        self._dtype = kinds.element_type(annotation)

    def __repr__(self) -> str:
        return "an array"

    def read(self, data: bytes, media: str) -> Any:
        if media == NPY:
            return self._arrays.cast(self._arrays.from_npy(data), self._dtype)
        if media == MSGPACK:
            return self.take(_unpacked(data))
        try:
            value = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise misfit_of_msgspec(error) from None
        return self._taken(value, has_text=b'"' in data)

    def take(self, value: Any) -> Any:
        return self._taken(value)

    def _taken(self, value: Any, *, has_text: bool = True) -> Any:
        if value is None and self._optional:
            return None
        return self._arrays.cast(self._arrays.as_array(value, self._dtype, has_text=has_text), self._dtype)

    def json(self, value: Any) -> bytes:
        return json.dumps(self.plain(value), separators=(",", ":"), allow_nan=False).encode()

    def plain(self, value: Any) -> Any:
        return None if value is None else value.tolist()

    def describe(self, *, answer: bool) -> Described:
        kind = ["array", "null"] if self._optional else "array"
        return {"type": kind, "items": {}, "title": "Array", "description": "Nested lists of numbers."}, {}


def _unpacked(data: bytes) -> Any:
    try:
        return msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, TypeError) as error:
        raise misfit_of_msgspec(error, _BAD_MSGPACK) from None
