"""Pickles for other processes: objects that these cannot import by name are pickled by value.

cloudpickle does so for objects of ``__main__``. This module extends it to all modules that are not
:mod:`~pointsman.usercode.findable`, and to objects that Python pickles by name only: functions with a cache, generic
functions, some kinds of types.
"""

from __future__ import annotations

import contextvars
import copyreg
import dataclasses
import functools
import io
import pickle
import sys
import threading
import types
import typing
from collections import ChainMap, Counter
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import msgspec

from pointsman.usercode import classids
from pointsman.usercode.annotations import is_typed_dict, reduce_struct, reduce_typed_dict
from pointsman.usercode.findable import SCRIPTS, is_findable
from pointsman.usercode.picklenames import globals_of, may_name_unfindable

_StructType = type(msgspec.Struct)
Reduced = tuple[Any, ...]
#: Types whose objects cloudpickle can pickle by value.
_BY_VALUE = (types.FunctionType, type, types.ModuleType, typing.TypeVar)


class ByNameOnlyError(pickle.PicklingError):
    """An object can be pickled by its name only, and other processes cannot import that name."""


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler that pickles by value whatever other processes cannot import.

    Args:
        folders: the first entries of the import path of those processes.
        buffer_callback: as for :class:`pickle.Pickler`.
    """

    def __init__(
        self,
        file: io.BytesIO,
        *,
        folders: Sequence[str] = (),
        buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        self._folders = folders
        self._findable: dict[str, bool] = {}
        self._marked: list[types.ModuleType] = []

    def dump(self, obj: Any) -> None:
        """Write a pickle. Raises whatever pickling raises, user code included."""
        try:
            super().dump(obj)
        finally:
            self.unmark()

    def unmark(self) -> None:
        """Unregister what was registered with cloudpickle for this pickle; :meth:`dump` does it itself."""
        while self._marked:
            _unmark(self._marked.pop())

    def reducer_override(self, obj: Any) -> Any:
        """Called by pickle for all objects but those of the simplest built-in types."""
        if isinstance(obj, types.ModuleType):
            if not self._is_findable(obj.__name__) and obj.__name__ != "__main__":
                return _reduce_module(obj)
        elif isinstance(obj, types.FunctionType) and obj.__code__ is _DISPATCHER and not self.is_by_name(obj):
            return _reduce_dispatcher(obj)
        elif isinstance(obj, _BY_VALUE):
            if isinstance(obj, _StructType) and not self.is_by_name(obj):
                return reduce_struct(obj)
            if is_typed_dict(obj) and not self.is_by_name(obj):
                return reduce_typed_dict(obj)
            self._is_findable(obj.__module__)  # marks the module, if not, so that cloudpickle goes by value
            if not isinstance(obj, types.FunctionType):
                return self._reduce_class(obj)
            return classids.with_sorted_sets(super().reducer_override(obj))
        elif isinstance(obj, contextvars.ContextVar):
            return self._reduce_context_variable(obj)
        else:
            reduce = _REDUCERS.get(type(obj))
            if reduce is not None and not self.is_by_name(obj):
                return reduce(obj)
            _check_loadable(obj)
        return super().reducer_override(obj)

    def is_by_name(self, obj: Any) -> bool:
        """Whether another process gets the same object by importing its name."""
        module = getattr(obj, "__module__", None)
        name = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
        if not isinstance(module, str) or not isinstance(name, str) or not self._is_findable(module):
            return False
        found = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        return found is obj

    def _reduce_class(self, cls: Any) -> Any:
        """Pickle a class or a type variable; by value under an id that is made of its content."""
        if not classids.has_id(cls) and not self.is_by_name(cls):
            classids.identify(cls, lambda: _measured(cls, self._folders))
        return classids.with_sorted_sets(_without_parents(super().reducer_override(cls)))

    def _reduce_context_variable(self, variable: contextvars.ContextVar[Any]) -> Reduced:
        """Pickle a variable of an importable module by name: that module's own code must set and read the same one."""
        for name, module in list(sys.modules.items()):
            if isinstance(module, types.ModuleType):
                key = next((key for key, value in list(vars(module).items()) if value is variable), None)
                if key is not None and self._is_findable(name):
                    return getattr, (module, key)
        return _make_context_variable, (variable.name, *_default_of(variable))

    def _is_findable(self, name: Any) -> bool:
        """Whether other processes can import a module. If not, mark it, so that cloudpickle pickles its objects by
        value."""
        if not isinstance(name, str):
            return False
        found = self._findable.get(name)
        if found is None:
            found = self._findable[name] = is_findable(name, self._folders) and not _is_by_value_for_users(name)
            module = sys.modules.get(name)
            if not found and name != "__main__" and isinstance(module, types.ModuleType) and _mark(module):
                self._marked.append(module)
        return found


_PARENTS = "__pydantic_parent_namespace__"  # of a model: the local variables of the function that has defined it


def _without_parents(reduced: Any) -> Any:
    """How a model of pydantic is pickled, without what stood beside it, which may be a client. Names in its annotations
    are resolved where its signature was read."""
    state = reduced[2] if isinstance(reduced, tuple) and len(reduced) > 2 else None
    if isinstance(state, tuple) and isinstance(state[0], dict) and _PARENTS in state[0]:
        state[0][_PARENTS] = None
    return reduced


def dumps(
    value: Any,
    *,
    folders: Sequence[str] = (),
    buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
    pickler: type[Pickler] = Pickler,
) -> bytes:
    """A pickle that other processes can load.

    Args:
        folders: the first entries of the import path of those processes.
        buffer_callback: as for :func:`pickle.dumps`.
        pickler: the class that makes the pickle.

    Raises:
        ByNameOnlyError: the pickle would name something that they cannot import.
        Exception: whatever pickling raises.
    """
    file = io.BytesIO()
    pickler(file, folders=folders, buffer_callback=buffer_callback).dump(value)
    packed = file.getvalue()
    if may_name_unfindable(packed, folders):
        for module, name in globals_of(packed):
            if not is_findable(module, folders):
                raise ByNameOnlyError(_by_name_only_text(module, name))
    return packed


def _by_name_only_text(module: str, name: str) -> str:
    where = "the script" if module in SCRIPTS else "a module that is not found there by its name"
    return (
        f"replicas would import {name!r} from {module!r}, which is {where}; define it in a module that is found on"
        " sys.path or in py_modules, or make it in the constructor"
    )


# --- modules whose functions and classes go by value ------------------------------------------------------------------

_marks: Counter[str] = Counter()
_marks_lock = threading.Lock()


def _is_by_value_for_users(name: str) -> bool:
    """Whether the user has registered a module, or a package above it, with cloudpickle for pickling by value."""
    return any(f"{name}.".startswith(f"{other}.") for other in cloudpickle.list_registry_pickle_by_value())


def _mark(module: types.ModuleType) -> bool:
    """Register a module with cloudpickle for pickling by value. Marks are counted, since several threads may pickle at
    once. Returns False if no mark is needed: the user has registered the module, or none of that name is loaded."""
    with _marks_lock:
        name = module.__name__
        if not _marks[name]:
            if name in cloudpickle.list_registry_pickle_by_value() or name not in sys.modules:
                return False
            cloudpickle.register_pickle_by_value(module)
        _marks[name] += 1
        return True


def _unmark(module: types.ModuleType) -> None:
    with _marks_lock:
        name = module.__name__
        _marks[name] -= 1
        if not _marks[name]:
            del _marks[name]
            cloudpickle.unregister_pickle_by_value(module)


# --- ids of classes ---------------------------------------------------------------------------------------------------


class _Measurer(Pickler):
    """Writes what the content of a class is, the same in each process; nothing can be loaded from that."""

    dispatch_table = ChainMap(
        {types.CodeType: lambda code: (str, classids.sorted_constants(code)[1])}, cloudpickle.Pickler.dispatch_table
    )

    def __init__(self, file: Any, folders: Sequence[str]) -> None:
        super().__init__(file, folders=folders)
        self._numbers: dict[Any, int] = {}

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, _LOCKS):  # as apps have them
            return str, ("lock",)
        return super().reducer_override(obj)

    def _reduce_class(self, cls: Any) -> Any:
        if isinstance(cls, typing.TypeVar) and not self.is_by_name(cls):
            return str, (cls.__name__, cls.__bound__, cls.__constraints__)
        had_id = classids.has_id(cls)
        reduced = _without_parents(cloudpickle.Pickler.reducer_override(self, cls))
        if not isinstance(reduced, tuple):
            return reduced
        number = self._numbers.setdefault(cls, len(self._numbers))
        return classids.with_sorted_sets(classids.without_id(reduced, cls, number, had_id))


_LOCKS = (type(threading.Lock()), type(threading.RLock()))


def _measured(cls: Any, folders: Sequence[str]) -> str:
    """A digest of the content of a class, with all that it refers to by value."""
    measure = classids.Measure()
    _Measurer(measure, folders).dump(cls)
    return measure.result()


# --- objects that do not load -----------------------------------------------------------------------------------------


def _check_loadable(obj: Any) -> None:
    """Refuse objects that pickle can write but not load: loading looks up ``__setstate__`` on an object that has no
    attributes yet, and a ``__getattr__`` that uses an attribute then calls itself without end.

    Raises:
        PicklingError: loading would fail.
    """
    kind = type(obj)
    if not hasattr(kind, "__getattr__") or hasattr(kind, "__setstate__") or kind in copyreg.dispatch_table:
        return
    plain = all(getattr(kind, name) is getattr(object, name) for name in ("__reduce_ex__", "__reduce__", "__new__"))
    if not plain or not getattr(obj, "__dict__", None):
        return
    try:
        getattr(object.__new__(kind), "__setstate__", None)
    except Exception as error:
        why = f"its __getattr__ needs attributes that a {kind.__name__} does not have before it is loaded"
        raise pickle.PicklingError(f"a {kind.__name__} could not be loaded again: {why}") from error


# --- types that Python pickles by name --------------------------------------------------------------------------------


def _reduce_module(module: types.ModuleType) -> Reduced:
    # The state is set after the module was made, since its functions may refer to it.
    left_out = ("__builtins__", "__loader__", "__spec__", "__cached__")
    state = {name: value for name, value in vars(module).items() if name not in left_out}
    return types.ModuleType, (module.__name__,), state


def _reduce_cached(function: Any) -> Reduced:
    parameters = function.cache_parameters()
    attributes = {name: value for name, value in vars(function).items() if name not in _OF_CACHES}
    return _make_cached, (function.__wrapped__, parameters), attributes or None


_OF_CACHES = ("__wrapped__", "cache_parameters")


def _make_cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _reduce_dispatcher(function: Any) -> Reduced:
    own = ("__wrapped__", "registry", "dispatch", "register", "_clear_cache")
    attributes = {name: value for name, value in vars(function).items() if name not in own}
    state = (dict(function.registry), attributes)
    return _make_dispatcher, (function.__name__,), state, None, None, _fill_dispatcher


def _make_dispatcher(name: str) -> Any:
    def function(*args: Any) -> None: ...

    function.__name__ = name
    return functools.singledispatch(function)


def _fill_dispatcher(dispatcher: Any, state: tuple[dict[type, Callable[..., Any]], dict[str, Any]]) -> None:
    implementations, attributes = state
    functools.update_wrapper(dispatcher, implementations[object])
    vars(dispatcher).update(attributes)
    for kind, implementation in implementations.items():
        dispatcher.register(kind, implementation)


#: The code object that all generic functions share.
_DISPATCHER = _make_dispatcher("").__code__


def _reduce_dispatch_method(descriptor: functools.singledispatchmethod[Any]) -> Reduced:
    return _make_dispatch_method, (descriptor.func, descriptor.dispatcher)


def _make_dispatch_method(function: Callable[..., Any], dispatcher: Any) -> functools.singledispatchmethod[Any]:
    # Built by its constructor and not from its state: in Python 3.13.0 the state has weak references.
    descriptor = functools.singledispatchmethod(function)
    descriptor.dispatcher = dispatcher
    return descriptor


def _reduce_cached_property(descriptor: functools.cached_property[Any]) -> Reduced:
    return _make_cached_property, (descriptor.func, descriptor.attrname)


def _make_cached_property(function: Callable[[Any], Any], name: str | None) -> functools.cached_property[Any]:
    descriptor = functools.cached_property(function)
    descriptor.attrname = name
    return descriptor


def _default_of(variable: contextvars.ContextVar[Any]) -> tuple[Any, ...]:
    try:
        return (contextvars.Context().run(variable.get),)
    except LookupError:
        return ()


def _make_context_variable(name: str, *default: Any) -> contextvars.ContextVar[Any]:
    return contextvars.ContextVar(name, default=default[0]) if default else contextvars.ContextVar(name)


def _reduce_new_type(kind: Any) -> Reduced:
    return _make_new_type, (kind.__qualname__, kind.__supertype__, kind.__module__)


def _make_new_type(name: str, supertype: Any, module: str) -> Any:
    make: Any = typing.NewType
    made = make(name, supertype)
    made.__module__ = module
    return made


def _reduce_param_spec(spec: Any) -> Reduced:
    return _make_param_spec, (spec.__name__, spec.__bound__, spec.__covariant__, spec.__contravariant__)


def _make_param_spec(name: str, bound: Any, covariant: bool, contravariant: bool) -> Any:
    return typing.ParamSpec(name, bound=bound, covariant=covariant, contravariant=contravariant)


def _reduce_sentinel(sentinel: Any) -> str:
    # By name, since dataclasses compares its sentinels by identity.
    return next(name for name, value in vars(dataclasses).items() if value is sentinel)


_REDUCERS: dict[type, Callable[[Any], Reduced | str]] = {
    functools._lru_cache_wrapper: _reduce_cached,
    functools.cached_property: _reduce_cached_property,
    functools.singledispatchmethod: _reduce_dispatch_method,
    typing.NewType: _reduce_new_type,
    typing.ParamSpec: _reduce_param_spec,
    type(dataclasses.MISSING): _reduce_sentinel,
    type(dataclasses.KW_ONLY): _reduce_sentinel,
}
if sys.version_info >= (3, 11):
    _REDUCERS[typing.TypeVarTuple] = lambda kind: (typing.TypeVarTuple, (kind.__name__,))
if sys.version_info >= (3, 12):
    _REDUCERS[typing.TypeAliasType] = lambda alias: (typing.TypeAliasType, (alias.__name__, alias.__value__))
