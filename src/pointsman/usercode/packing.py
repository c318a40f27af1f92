"""Checks user code and packs it for its replicas, which load it again. The client checks it before it is sent."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import pickletools
import reprlib
import sys
import threading
import types
from collections import ChainMap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cloudpickle

from pointsman.limits import MAX_CODE, MAX_MESSAGE, check_size
from pointsman.model import ALL_METHODS, ASGI, PLAIN, TargetTraits
from pointsman.multiplexing.loader import loader_of, loaders_of
from pointsman.usercode.byvalue import Pickler, dumps
from pointsman.usercode.callables import is_async, is_batching, is_decorated, takes_argument, wraps_async
from pointsman.usercode.classids import sorted_constants
from pointsman.usercode.culprit import explain
from pointsman.usercode.mounting import MARK, Mounted, has_app, parameters_of
from pointsman.usercode.signatures import read_signature

DEFAULT_METHOD = "__call__"
#: Methods of a class that Pointsman calls, and callers may not.
CLOSED_METHODS = frozenset({"reconfigure", "check_health", "close"})


def inspect_code(function_or_class: Any, init_args: tuple[Any, ...]) -> TargetTraits:
    """Check that an object can be a backend; returns its traits.

    Raises:
        TypeError: it is neither a plain function nor a class, or it takes more than one request.
        ValueError: there are init args for a function, or a class loads models in two ways.
    """
    if isinstance(function_or_class, Mounted):
        if init_args:
            raise ValueError(f"init args {init_args!r} were given for {function_or_class!r}, which is no class")
        if not isinstance(function_or_class.app, str) and parameters_of(function_or_class.app) == 1:
            raise TypeError(f"{function_or_class!r} takes the object of a class: decorate a class with it")
        return TargetTraits(is_class=False, surface=ASGI, api=_describe_app(function_or_class.app))
    if isinstance(function_or_class, types.FunctionType) or is_decorated(function_or_class):
        if init_args:
            name = getattr(function_or_class, "__name__", repr(function_or_class))
            raise ValueError(f"init args {init_args!r} were given for the function {name!r}")
        batches = is_batching(function_or_class)
        api = _check_signature(function_or_class, batches)
        one_at_a_time = not batches and _is_sync(function_or_class)
        return TargetTraits(is_class=False, batches=batches, one_at_a_time=one_at_a_time, api=api)
    if isinstance(function_or_class, type):
        call = getattr(function_or_class, DEFAULT_METHOD, None)
        mounted = has_app(function_or_class)
        batches = is_batching(call)
        api = _describe_app(getattr(function_or_class, MARK)) if mounted else b""
        if isinstance(call, types.FunctionType) and not mounted:
            doc = inspect.cleandoc(vars(function_or_class).get("__doc__") or "")
            api = _check_signature(call, batches, bound=_is_bound(function_or_class, DEFAULT_METHOD), doc=doc)
        _settle_methods(function_or_class, batches)
        methods = [value for name, value in inspect.getmembers(function_or_class) if name != DEFAULT_METHOD]
        has_batching_method = any(is_batching(method) for method in methods if callable(method))
        loader = loader_of(function_or_class)
        ways_in = [call, *(getattr(function_or_class, name) for name in methods_of(function_or_class))]
        plain, are_sync = not (batches or has_batching_method or mounted), [*map(_is_sync, ways_in)]
        return TargetTraits(
            is_class=True,
            batches=batches,
            has_reconfigure=callable(getattr(function_or_class, "reconfigure", None)),
            has_batching_method=has_batching_method,
            has_close=is_hook(getattr(function_or_class, "close", None)),
            one_at_a_time=plain and all(are_sync),
            surface=ASGI if mounted else PLAIN,
            api=api,
            multiplexed=loader is not None,
            mixed=plain and are_sync[0] and not all(are_sync),
        )
    kind = type(function_or_class).__name__
    call = getattr(type(function_or_class), DEFAULT_METHOD, None)
    hint = "; an ASGI app is given as serve.asgi(app)" if is_async(call) else ""
    if isinstance(function_or_class, str):
        hint = f"; one that replicas import is given as serve.ImportedBackend({function_or_class!r})"
    raise TypeError(f"a backend is a plain function or a class, not {function_or_class!r} (a {kind}){hint}")


def _check_signature(function: Any, batches: bool, *, bound: bool = False, doc: str = "") -> bytes:
    """Check what a callable takes, and make the annotations of a typed one ready to travel. Returns what describes it,
    packed; nothing for one that is not typed.

    Raises:
        TypeError: it requires what no request has.
    """
    signature = read_signature(function, batches=batches, bound=bound, settles=True, warns=True)
    if signature is None or not signature.has_inputs:
        takes_argument(function, bound=bound)
    if signature is None:
        return b""
    from pointsman.usercode.describing import describe

    return describe(signature, doc)


def _describe_app(app: Any) -> bytes:
    # Imported on use: replicas, which import this module, need none of it.
    from pointsman.usercode.describing import describe_app

    return describe_app(app)


def _settle_methods(cls: type, batches: bool) -> None:
    """Make the annotations of typed methods ready to travel. One that no call can name with success is left alone: it
    may be a helper of others."""
    for name in methods_of(cls):
        method = getattr(cls, name)
        try:
            read_signature(method, batches=batches or is_batching(method), bound=_is_bound(cls, name), settles=True)
        except TypeError:
            continue


def _is_bound(cls: type, name: str) -> bool:
    """Whether the first parameter of a method, as it is read from the class, is ``self``."""
    return not isinstance(inspect.getattr_static(cls, name), staticmethod)


def _is_sync(function: Any) -> bool:
    """Whether a call of it is over when it returns, as far as can be seen."""
    return not (is_async(function) or wraps_async(function))


def check_http_methods(names: Any) -> list[str] | str:
    """Check the methods that HTTP clients may choose; returns them without duplicates, or ``*`` for every public one.

    Raises:
        ValueError: it is no list of names, or has a name that callers can never choose.
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
    """Whether a class's ``close`` is the hook that Pointsman calls without arguments. A ``close`` that requires an
    argument is an ordinary method."""
    if not callable(close):
        return False
    try:
        parameters = list(inspect.signature(close).parameters.values())
    except (ValueError, TypeError):
        return True  # some C callables have no signature
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = sum(p.default is p.empty and p.kind not in kinds for p in parameters)
    return required <= 1  # `self`, since the function is read from the class


def methods_of(cls: type) -> list[str]:
    """Names of the methods that callers may choose beside ``__call__``: all public ones but the hooks."""
    members = inspect.getmembers(cls, lambda value: callable(value) and not isinstance(value, type))
    hooks = CLOSED_METHODS if is_hook(getattr(cls, "close", None)) else CLOSED_METHODS - {"close"}
    open_names = [name for name, _ in members if not name.startswith("_") and name not in hooks]
    loaders = loaders_of(cls)
    return [name for name in open_names if name not in loaders]


def check_callable(cls: type) -> None:
    """Check that objects of a class can be called.

    Raises:
        TypeError: it has neither ``__call__`` nor another public method.
    """
    # getattr(cls, "__call__") would find the metaclass's, by which the class itself is called.
    found = [vars(base) for base in cls.__mro__ if base is not object]
    call = next((base[DEFAULT_METHOD] for base in found if DEFAULT_METHOD in base), None)
    has_dynamic_names = any("__getattr__" in base or "__getattribute__" in base for base in found)
    if call is None and not has_dynamic_names and not methods_of(cls):
        name = cls.__name__
        raise TypeError(f"class {name} cannot be called: give it a method '{DEFAULT_METHOD}(self, request)'")


def import_object(path: str, sys_path: Iterable[str] = ()) -> Any:
    """Import the object with the path ``package.module:name`` or ``package.module.name``.

    Args:
        sys_path: folders that are appended to this process's import path. They stay there, since the object may import
            more later.

    Raises:
        ImportError: there is no such module, or nothing of that name in it.
        Exception: whatever the module raises while it is imported.
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
    """A user's object for a message: its ``repr``, shortened; if that raises, the name of its class."""
    return _short.repr(value)


def pack_code(function_or_class: Any, init_args: tuple[Any, ...], folders: Sequence[str] = ()) -> bytes:
    """Pickle code with its init args. What replicas cannot import is pickled by value: objects of the script, of a
    notebook cell, or of a module that is not found by its name.

    Args:
        folders: the first entries of the replicas' import path.

    Raises:
        TypeError: a part of it cannot be pickled, or not be loaded in replicas; the text names the part.
        ValueError: the init args take more than 64 MiB, or code and init args together more than 512 MiB.
    """
    mounted = has_app(function_or_class)
    try:
        data = dumps((function_or_class, init_args), folders=folders, pickler=_AppPickler if mounted else _CodePickler)
    except Exception as error:
        name = getattr(function_or_class, "__qualname__", repr(function_or_class))
        parts = [("it", function_or_class), *((f"init argument {i}", value) for i, value in enumerate(init_args))]
        remedy = "; give serve.asgi a function that makes the app, or 'module:name'" if mounted else ""
        raise TypeError(f"{name} cannot be sent to replicas: {explain(error, parts, folders)}{remedy}") from error
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
    make, arguments = sorted_constants(code)
    return _make_code, (make, arguments, code.co_filename)


class _CodePickler(Pickler):
    """A pickler that keeps the file names of functions, so that tracebacks from replicas show lines of source.
    cloudpickle drops them from 3.1.3 on, so that equal functions from different files have equal pickles."""

    dispatch_table = ChainMap({types.CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table)


_LOCK = type(threading.Lock())


class _AppPickler(_CodePickler):
    """A pickler for apps: frameworks keep locks in them, which nobody holds in a process that has just begun."""

    dispatch_table = ChainMap(
        {_LOCK: lambda _: (threading.Lock, ()), type(threading.RLock()): lambda _: (threading.RLock, ())},
        _CodePickler.dispatch_table,
    )

    def reducer_override(self, obj: Any) -> Any:
        starlette = sys.modules.get("starlette.datastructures")
        if starlette is not None and type(obj) is starlette.State:  # which pickle writes and cannot load
            return starlette.State, (obj._state,)
        return super().reducer_override(obj)


def folder_of(function_or_class: Any) -> str:
    """The folder of the file that holds code; empty if it is in no file, as in a notebook."""
    code = function_or_class.app if isinstance(function_or_class, Mounted) else function_or_class
    name = code.partition(":")[0] if isinstance(code, str) else getattr(code, "__module__", None)
    file = getattr(sys.modules.get(name or ""), "__file__", None)
    return os.path.dirname(os.path.abspath(file)) if isinstance(file, str) else ""


def carries_code(data: bytes) -> bool:
    """Whether a pickle made by cloudpickle holds bytecode, which only the same minor version of Python can run."""
    if b"CodeType" not in data:
        return False
    texts = {argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)}
    return {"cloudpickle.cloudpickle", "_builtin_type", "CodeType"} <= texts


def code_digest(data: bytes) -> str:
    """The name under which packed code is stored."""
    return hashlib.sha256(data).hexdigest()


def unpack_code(data: bytes) -> tuple[Any, tuple[Any, ...]]:
    """The reverse of :func:`pack_code`. Unpickling runs code: use it only for blobs that an operator has sent."""
    function_or_class, init_args = cloudpickle.loads(data)
    return function_or_class, init_args
