"""What user code looks like, and how it is packed for its replicas. The client looks before it ships; the replica
reads what was shipped."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pickletools
import reprlib
import sys
import types
from collections import ChainMap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cloudpickle

from pointsman.limits import MAX_CODE, MAX_MESSAGE, check_size
from pointsman.model import ALL_METHODS, TargetTraits
from pointsman.usercode.byvalue import Pickler, dumps
from pointsman.usercode.callables import is_batching, is_decorated, takes_argument
from pointsman.usercode.culprit import explain

DEFAULT_METHOD = "__call__"
CLOSED_METHODS = frozenset({"reconfigure", "check_health", "close"})
"""Methods of a class that the system calls, and callers may not."""


def look_at(function_or_class: Any, init_args: tuple[Any, ...]) -> TargetTraits:
    """Check that something can be a backend, and note what matters about it.

    Raises:
        TypeError: neither a plain function nor a class, or it takes more than one request.
        ValueError: init args for a function.
    """
    if isinstance(function_or_class, types.FunctionType) or is_decorated(function_or_class):
        if init_args:
            name = getattr(function_or_class, "__name__", repr(function_or_class))
            raise ValueError(f"init args {init_args!r} were given for the function {name!r}")
        takes_argument(function_or_class)
        return TargetTraits(is_class=False, batches=is_batching(function_or_class))
    if isinstance(function_or_class, type):
        call = getattr(function_or_class, DEFAULT_METHOD, None)
        if isinstance(call, types.FunctionType):
            static = isinstance(inspect.getattr_static(function_or_class, DEFAULT_METHOD), staticmethod)
            takes_argument(call, bound=not static)
        methods = [value for name, value in inspect.getmembers(function_or_class) if name != DEFAULT_METHOD]
        return TargetTraits(
            is_class=True,
            batches=is_batching(call),
            has_reconfigure=callable(getattr(function_or_class, "reconfigure", None)),
            has_batching_method=any(is_batching(method) for method in methods if callable(method)),
            has_close=is_hook(getattr(function_or_class, "close", None)),
        )
    kind = type(function_or_class).__name__
    raise TypeError(f"a backend is a plain function or a class, not {function_or_class!r} (a {kind})")


def check_http_methods(names: Any) -> list[str] | str:
    """The methods that HTTP clients may choose, each once, or ``*`` for every public one.

    Raises:
        ValueError: no list of names, or one that callers can never choose.
    """
    if isinstance(names, str) and names != ALL_METHODS:
        raise ValueError(f"it must be a list of names, such as [{names!r}], or {ALL_METHODS!r}")
    if not isinstance(names, (str, list, tuple, set, frozenset)):
        raise ValueError(f"it must be a list of names, or {ALL_METHODS!r}")
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"it must be a list of str, and it has {name!r}")
        if name == DEFAULT_METHOD:
            raise ValueError(f"{name!r} is open without being named")
        if name in CLOSED_METHODS or name.startswith("_"):
            raise ValueError(f"{name!r} is never open to callers")
        if name != ALL_METHODS and not name.isidentifier():
            raise ValueError(f"{name!r} cannot be the name of a method")
    return ALL_METHODS if ALL_METHODS in names else list(dict.fromkeys(names))


def is_hook(close: Any) -> bool:
    """Whether a class's ``close`` can be called as the system calls it. One that requires an argument of its own is a
    method like others: it was written before there was such a hook."""
    if not callable(close):
        return False
    try:
        parameters = list(inspect.signature(close).parameters.values())
    except (ValueError, TypeError):
        return True  # no signature to be had
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return sum(p.default is p.empty and p.kind not in kinds for p in parameters) <= 1  # `self`, which a class still has


def methods_of(cls: type) -> list[str]:
    """Names of a class's own ways in beside ``__call__``: its public methods, less those that we call ourselves."""
    members = inspect.getmembers(cls, lambda value: callable(value) and not isinstance(value, type))
    hooks = CLOSED_METHODS if is_hook(getattr(cls, "close", None)) else CLOSED_METHODS - {"close"}
    return [name for name, _ in members if not name.startswith("_") and name not in hooks]


def check_callable(cls: type) -> None:
    """Check that there is a way to call objects of a class.

    Raises:
        TypeError: it has neither ``__call__`` nor another public method.
    """
    # Not by `getattr`: each class can be called itself, in order to make an object, and would say so.
    found = [vars(base) for base in cls.__mro__ if base is not object]
    call = next((base[DEFAULT_METHOD] for base in found if DEFAULT_METHOD in base), None)
    makes_names_up = any("__getattr__" in base or "__getattribute__" in base for base in found)
    if call is None and not makes_names_up and not methods_of(cls):
        name = cls.__name__
        raise TypeError(f"class {name} cannot be called: give it a method '{DEFAULT_METHOD}(self, request)'")


def import_object(path: str, sys_path: Iterable[str] = ()) -> Any:
    """What an import path names: ``package.module:name`` or ``package.module.name``.

    Args:
        sys_path: folders to look in after those of this process; they stay, since the object may import more later.

    Raises:
        ImportError: there is no such module, or nothing of that name in it.
        Exception: what the module raises while it is imported.
    """
    module_name, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    if not module_name or not name or module_name.startswith("."):
        raise ImportError(f"{shown(path)} is not an import path such as 'package.module:name'")
    sys.path.extend(folder for folder in sys_path if folder not in sys.path)
    importlib.invalidate_caches()  # it may have been written a moment ago
    found: Any = importlib.import_module(module_name)
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise ImportError(f"module {module_name!r} has no {name!r}") from None
    return found


_short = reprlib.Repr()
_short.maxother = _short.maxstring = 200


def shown(value: object) -> str:
    """An object of the user's in a message: its ``repr``, or the name of its class where that raises; never long."""
    return _short.repr(value)


def pack_code(function_or_class: Any, init_args: tuple[Any, ...], folders: Sequence[str] = ()) -> bytes:
    """Pickle code with its init args. What replicas cannot import is packed by value: what is defined in the script or
    a notebook cell, or in a module that is not found by its name.

    Args:
        folders: come first in the replicas' import path.

    Raises:
        TypeError: something in it cannot be pickled, or not be loaded there; the text says what.
        ValueError: the init args take more than 64 MiB, or all of it more than 512 MiB.
    """
    try:
        data = dumps((function_or_class, init_args), folders=folders, pickler=_CodePickler)
    except Exception as error:
        name = getattr(function_or_class, "__qualname__", repr(function_or_class))
        parts = [("it", function_or_class), *((f"init argument {i}", value) for i, value in enumerate(init_args))]
        raise TypeError(f"{name} cannot be sent to replicas: {explain(error, parts, folders)}") from error
    _check_sizes(data, init_args, folders)
    return data


def _check_sizes(data: bytes, init_args: tuple[Any, ...], folders: Sequence[str]) -> None:
    if len(data) <= MAX_MESSAGE:
        return
    remedy = "have the replica read what is large from a file, in its constructor"
    check_size("the pickled init args take", len(dumps(init_args, folders=folders)), MAX_MESSAGE, remedy)
    check_size("the pickled code, with all that it refers to, takes", len(data), MAX_CODE, remedy)


def _make_code(make: Callable[..., types.CodeType], arguments: tuple[Any, ...], filename: str) -> types.CodeType:
    return make(*arguments).replace(co_filename=filename)


def _reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    make, arguments = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    return _make_code, (make, arguments, code.co_filename)


class _CodePickler(Pickler):
    """Keeps the file names of functions, so that tracebacks from replicas show lines of source. cloudpickle drops them
    from 3.1.3 on, since it wants equal functions from different files to be packed alike."""

    dispatch_table = ChainMap({types.CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table)


def carries_code(data: bytes) -> bool:
    """Whether a pickle made by cloudpickle holds code by value, which only Python's same minor version can run."""
    if b"CodeType" not in data:
        return False
    texts = {argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)}
    return {"cloudpickle.cloudpickle", "_builtin_type", "CodeType"} <= texts


def code_digest(data: bytes) -> str:
    """The name under which packed code is stored."""
    return hashlib.sha256(data).hexdigest()


def unpack_code(data: bytes) -> tuple[Any, tuple[Any, ...]]:
    """The reverse of :func:`pack_code`. Runs code: only for blobs that an operator has sent."""
    function_or_class, init_args = cloudpickle.loads(data)
    return function_or_class, init_args
