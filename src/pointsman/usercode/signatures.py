"""The signature of a callable, read once: what its parameters get. Read in the client, which refuses what cannot work,
and again in each replica.

A callable is typed if a parameter, or what it returns, is annotated with a model (:mod:`~pointsman.usercode.kinds`) or
with :class:`~pointsman.forms.File`. Then the model is the body, and other parameters come from the path or the query
string by their names. All other callables are left alone.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, Union

from pointsman.forms import File
from pointsman.request import Request
from pointsman.usercode import kinds
from pointsman.usercode.annotations import hints_of, settle
from pointsman.usercode.models import Form, PydanticForm, form_of

BODY, FILE, REQUEST, FIELD = "body", "file", "request", "field"
"""What a parameter gets: the decoded body, an uploaded file, the request, or a field of path or query."""
MAX_LAYERS = 100
_EMPTY = inspect.Parameter.empty


class Parameter(NamedTuple):
    """A parameter of a typed callable.

    Attributes:
        form: reads its value; None for a request, and for files.
        default: its value if the request has none; ``inspect.Parameter.empty`` if the request must have one.
        many: it gets a list of all fields, or files, of its name.
    """

    name: str
    role: str
    form: Form | None = None
    default: Any = _EMPTY
    keyword_only: bool = False
    many: bool = False

    @property
    def required(self) -> bool:
        return self.default is _EMPTY


class Signature(NamedTuple):
    """The signature of a typed callable.

    Attributes:
        parameters: in order; optional ones of no known meaning are left out.
        returns: reads and writes answers; None if these are sent as those of other callables.
        batches: the callable takes a list of each.
        doc: its docstring.
    """

    parameters: tuple[Parameter, ...]
    returns: Form | None
    batches: bool
    doc: str = ""

    def of_role(self, role: str) -> list[Parameter]:
        return [parameter for parameter in self.parameters if parameter.role == role]

    @property
    def has_inputs(self) -> bool:
        """Whether anything but the request is given to it."""
        return any(parameter.role != REQUEST for parameter in self.parameters)

    @property
    def body(self) -> Parameter | None:
        return next(iter(self.of_role(BODY)), None)


def read_signature(
    function: Any, *, batches: bool, bound: bool = False, settles: bool = False, warns: bool = False
) -> Signature | None:
    """Read a callable's signature; None if the callable is not typed.

    Args:
        batches: it takes lists of requests.
        bound: leave out the first parameter, ``self``.
        settles: make its annotations real, since it is about to travel.
        warns: warn of annotations that cannot be resolved.

    Raises:
        TypeError: it is typed, and a parameter of it can get no value; or a model cannot be validated.
    """
    found = _parameters_of(function, bound=bound)
    if found is None:
        return None
    code, parameters = found
    hints, unknown = hints_of(code)
    named = {parameter.name: hints.get(parameter.name, _EMPTY) for parameter in parameters}
    returned = hints.get("return", _EMPTY)
    has_inputs = any(_role(hint, batches) in (BODY, FILE) for hint in named.values())
    if batches and any(kinds.is_typed(hint) and _item(hint) is None for hint in named.values()):
        where = getattr(function, "__qualname__", repr(function))
        raise TypeError(f"{where} takes a batch; annotate what it takes as list[Model]")
    if any(map(_is_upload, named.values())):
        where = getattr(function, "__qualname__", repr(function))
        raise TypeError(f"{where} takes an UploadFile, which is FastAPI's; annotate files with serve.File")
    if warns:
        _warn_of_unknown(function, [name for name in unknown if name in named], code)
        if not has_inputs:
            positional = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
            _warn_of_values(function, {name: named[name] for name in positional[:1]}, batches, code)
    if not has_inputs and not (returned is not _EMPTY and kinds.is_typed(_answer(returned, batches))):
        return None
    if settles:
        settle(code, hints)
    read = _read(function, parameters, named, batches) if has_inputs else _only_request(parameters)
    doc = inspect.cleandoc(code.__doc__ or "")
    returns = _returns(returned, batches)
    return Signature(read, returns, batches, doc) if has_inputs or returns is not None else None


def _parameters_of(function: Any, *, bound: bool) -> tuple[Any, list[inspect.Parameter]] | None:
    """The function whose parameters decide, and its parameters: a decorator with ``*args`` only hands them on."""
    code: Any = function
    if isinstance(code, types.MethodType):
        code, bound = code.__func__, True
    for _ in range(MAX_LAYERS):
        inner = getattr(code, "__wrapped__", None)
        try:
            parameters = list(inspect.signature(code, follow_wrapped=False).parameters.values())
        except (TypeError, ValueError):
            parameters = []
        hands_on = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        own = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if bound and parameters and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
            own = own[1:]
        if own or inner is None or not hands_on:
            return (code, own) if isinstance(code, types.FunctionType) else None
        code = inner
    return None


def _read(
    function: Any, parameters: Sequence[inspect.Parameter], hints: dict[str, Any], batches: bool
) -> tuple[Parameter, ...]:
    name = getattr(function, "__qualname__", repr(function))
    read, passed_over = [], False
    for parameter in parameters:
        hint = hints[parameter.name]
        _check_meaning(name, parameter, hint)
        role = _role(hint, batches)
        if role is None and hint is _EMPTY and parameter.default is not _EMPTY:
            passed_over = True  # nothing is known of it, and it needs nothing
            continue
        if role is None:
            raise TypeError(_unclear(name, parameter, hint, batches))
        form, many = _form(role, hint, batches)
        by_keyword = passed_over or parameter.kind is parameter.KEYWORD_ONLY
        read.append(Parameter(parameter.name, role, form, parameter.default, by_keyword, many))
    bodies = [parameter.name for parameter in read if parameter.role == BODY]
    files = [parameter.name for parameter in read if parameter.role == FILE]
    if len(bodies) > 1 or (bodies and files):
        both = ", ".join(bodies + files)
        raise TypeError(f"a request has one body, and {name} takes {both} from it; put them into one model")
    if batches and any(parameter.default is not _EMPTY for parameter in read):
        raise TypeError(f"{name} takes a batch, so its parameters can have no defaults")
    return tuple(read)


def _check_meaning(name: str, parameter: inspect.Parameter, hint: Any) -> None:
    """What FastAPI and pydantic put in the place of a default is no value, and nobody here would read it."""
    marks = [parameter.default] if _is_mark(parameter.default) else []
    marks += [mark for mark in getattr(hint, "__metadata__", ()) if type(mark).__module__ == "fastapi.params"]
    for mark in marks:
        raise TypeError(
            f"parameter {parameter.name!r} of {name} is declared by {type(mark).__name__}(...), which only FastAPI"
            " reads; write Annotated[type, pydantic.Field(...)] = default, and take a serve.Request for all that is"
            " neither in the body nor in path or query"
        )


def _is_mark(default: Any) -> bool:
    fields = sys.modules.get("pydantic.fields")
    is_field = fields is not None and isinstance(default, fields.FieldInfo)
    return is_field or type(default).__module__ == "fastapi.params"


def _unclear(name: str, parameter: inspect.Parameter, hint: Any, batches: bool) -> str:
    what = "no annotation" if hint is _EMPTY else f"the annotation {kinds.name_of(hint)}"
    if batches:
        right = "a batching callable takes list[Model] and, if it wants them, list[serve.Request]"
    else:
        right = "annotate it with int, str or another type of query parameters, or with serve.Request"
    return f"parameter {parameter.name!r} of {name} has {what}, so nothing can be given for it; {right}"


def _only_request(parameters: Sequence[inspect.Parameter]) -> tuple[Parameter, ...]:
    positional = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
    return (Parameter(positional[0].name, REQUEST),) if positional else ()


def _role(hint: Any, batches: bool) -> str | None:
    if hint is _EMPTY:
        return None
    item = _item(hint) if batches else hint
    if item is None:
        return None
    if _is_request(item):
        return REQUEST
    if File in _members(item):
        return FILE
    if kinds.is_typed(item):
        return BODY
    return None if batches or not _is_field(hint) else FIELD


def _item(hint: Any) -> Any:
    """What a batching callable's ``list[...]`` is of; None if it is no list."""
    arguments = typing.get_args(hint)
    is_list = typing.get_origin(hint) in (list, tuple) or getattr(typing.get_origin(hint), "__name__", "") in _SEQUENCES
    return arguments[0] if is_list and arguments else None


_SEQUENCES = ("Sequence", "Iterable", "Collection")


def _members(hint: Any) -> list[Any]:
    """The types of a union, of a list, or the annotation itself."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return [inner for argument in arguments for inner in _members(argument)]
    return _members(arguments[0]) if origin is list and arguments else [hint]


def _is_request(hint: Any) -> bool:
    if not kinds.is_class(hint):
        return False
    module = sys.modules.get("starlette.requests")
    return issubclass(hint, Request) or (module is not None and issubclass(hint, module.HTTPConnection))


def _is_upload(hint: Any) -> bool:
    module = sys.modules.get("starlette.datastructures")
    if module is None:
        return False
    plain = hint.__origin__ if typing.get_origin(hint) is typing.Annotated else hint
    return any(kinds.is_class(member) and issubclass(member, module.UploadFile) for member in _members(plain))


def _is_field(hint: Any) -> bool:
    """Whether a text, such as one of a query string, can be a value of this type."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _is_field(hint.__origin__)
    if origin in (Union, types.UnionType, list):
        return all(_is_field(part) for part in typing.get_args(hint))
    if origin is typing.Literal or hint is Any:
        return True
    return kinds.is_class(hint) and not issubclass(hint, _NO_FIELDS)


_NO_FIELDS = (dict, list, tuple, set, frozenset, bytearray, types.ModuleType)


def _form(role: str, hint: Any, batches: bool) -> tuple[Form | None, bool]:
    if role == REQUEST:
        return None, False
    if role == FILE:
        return None, typing.get_origin(_item(hint) if batches else hint) is list
    if role == BODY:
        return form_of(_item(hint) if batches else hint), False
    plain = hint.__origin__ if typing.get_origin(hint) is typing.Annotated else hint
    parts = typing.get_args(plain) if _is_union(plain) else (plain,)
    return PydanticForm(hint), any(typing.get_origin(part) is list for part in parts)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (Union, types.UnionType)


def _answer(hint: Any, batches: bool) -> Any:
    """What a return annotation says of one answer; a response of Starlette beside it says nothing."""
    answer = _item(hint) if batches else hint
    if not _is_union(answer):
        return answer
    left = tuple(part for part in typing.get_args(answer) if not _is_response(part))
    make: Any = Union
    return make[left] if left else None


def _is_response(hint: Any) -> bool:
    module = sys.modules.get("starlette.responses")
    return module is not None and kinds.is_class(hint) and issubclass(hint, module.Response)


def _returns(hint: Any, batches: bool) -> Form | None:
    """The form of answers; None where the annotation says nothing of it, or nothing that can be validated: answers may
    be of any kind, and are sent as those of other callables."""
    answer = _answer(hint, batches) if hint is not _EMPTY else None
    if answer is None:
        return None
    origin = typing.get_origin(answer)
    plain = answer in (int, float, bool) or (origin in (list, dict) and _is_field(typing.get_args(answer)[-1]))
    try:
        if kinds.is_typed(answer):
            return form_of(answer)
        return PydanticForm(answer) if plain else None
    except TypeError:
        return None


def _warn_of_unknown(function: Any, names: list[str], code: Any) -> None:
    for name in names:
        text = code.__annotations__[name]
        if "Request" not in text:
            where = getattr(function, "__qualname__", repr(function))
            told = f"annotation {text!r} of parameter {name!r} of {where} cannot be resolved: it gets the request"
            warnings.warn(told, UserWarning, stacklevel=2)


def _warn_of_values(function: Any, first: dict[str, Any], batches: bool, code: Any) -> None:
    """A first parameter that is annotated with a plain value reads as the body, and is not."""
    for name, hint in first.items():
        plain = _item(hint) if batches else hint
        if any(plain is value for value in _VALUES) or typing.get_origin(plain) is list:
            where = getattr(function, "__qualname__", repr(function))
            gets = "requests" if batches else "the request"
            told = (
                f"parameter {name!r} of {where} is annotated with {kinds.name_of(hint)}, which is no model: it gets"
                f" {gets}; to get the body, annotate it with a dataclass or a pydantic model that has such a field"
            )
            warnings.warn_explicit(told, UserWarning, code.__code__.co_filename, code.__code__.co_firstlineno)


_VALUES = (str, int, float, bool, list)
