"""usercode.byvalue: what another process cannot import comes to it by value, or is refused with its name."""

from __future__ import annotations

import contextvars
import functools
import importlib.util
import pickle
import runpy
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import fastapi
import pytest
from starlette.middleware import Middleware

import pointsman
from pointsman.config import HTTPOptions, pack_middlewares
from pointsman.usercode.byvalue import ByNameOnlyError, dumps
from pointsman.usercode.findable import is_findable
from pointsman.usercode.packing import pack_code
from pointsman.usercode.picklenames import globals_of, may_name_unfindable
from pointsman.wire import pickling

KINDS = Path(__file__).with_name("kinds.py")
FRESH = """
import pickle, sys
sys.path.append(sys.argv[1])
print(repr([function() for function in pickle.load(sys.stdin.buffer)]))
"""


def run_fresh(packed: bytes, cwd: Path) -> str:
    """What the functions in a pickle give in an interpreter that knows nothing of this one."""
    command = [sys.executable, "-c", FRESH, str(Path(pointsman.__file__).parent.parent)]
    done = subprocess.run(command, input=packed, capture_output=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def lacking(packed: bytes) -> set[str]:
    """Modules that a pickle imports, and that another process would not find."""
    return {module for module, _ in globals_of(packed) if not is_findable(module)}


def load(name: str, *, file: Path = KINDS) -> types.ModuleType:
    """A module from a path, under a name of one's own."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def forget() -> Iterator[None]:
    """Modules that a test makes go with it."""
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        del sys.modules[name]
    sys.modules.update(before)


def from_a_path() -> Any:
    return load("my model v1")


def in_the_place_of_another() -> Any:
    """The standard library has a module of that name, which a replica would import."""
    return load("colorsys")


def below_another() -> Any:
    return load("pointsman.extra")


def made_in_code() -> Any:
    module = types.ModuleType("made")
    sys.modules["made"] = module
    exec(compile(KINDS.read_text(), "<made>", "exec", dont_inherit=True), vars(module))
    return module


def that_is_gone() -> Any:
    module = load("gone")
    del sys.modules["gone"]
    return module


def of_runpy() -> Any:
    return types.SimpleNamespace(**runpy.run_path(str(KINDS)))


def of_a_parent_process() -> Any:
    return load("__mp_main__")


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize(
    "make",
    [from_a_path, in_the_place_of_another, below_another, made_in_code, that_is_gone, of_runpy, of_a_parent_process],
)
def test_code_of_any_module_travels(make: Any, tmp_path: Path) -> None:
    """Cached and generic functions, dataclasses, enums, models: whatever a replica cannot import by its name arrives by
    value, and works there as it does here (CB12)."""
    module = make()
    packed = dumps(list(module.EXPECTED))
    assert run_fresh(packed, tmp_path) == repr(list(module.EXPECTED.values()))
    assert not cloudpickle.list_registry_pickle_by_value()  # that was for this pickle only


def test_what_is_found_goes_by_name() -> None:
    """Code of a module on the path is named, not copied, and with it its cache and the identity of its classes."""
    from tests.unit import kinds

    assert pickle.loads(dumps(kinds.fibonacci)) is kinds.fibonacci
    assert pickle.loads(dumps(kinds.describe)) is kinds.describe
    assert pickle.loads(dumps(kinds.Point)) is kinds.Point


@pytest.mark.usefixtures("forget")
def test_folders_of_the_replicas_count(tmp_path: Path) -> None:
    """A module that the replicas have in ``working_dir`` or ``py_modules`` is imported there and not sent (CB12)."""
    (tmp_path / "helper.py").write_text("def function(request): ...")
    helper = load("helper", file=tmp_path / "helper.py")
    assert ("helper", "function") not in set(globals_of(pack_code(helper.function, ())))
    assert ("helper", "function") in set(globals_of(pack_code(helper.function, (), [str(tmp_path)])))


class Sentinel:
    def __reduce__(self) -> str:
        return "MISSING"


@pytest.mark.usefixtures("forget")
def test_what_cannot_travel_is_named() -> None:
    """An object that is pickled by a name which replicas cannot import is refused in one sentence: which variable,
    which name in which module, and what to do (CB12)."""
    module: Any = types.ModuleType("notebook")
    sys.modules["notebook"] = module
    module.MISSING = type("Sentinel", (Sentinel,), {"__module__": "notebook"})()

    def model(request: Any) -> Any:
        return module_missing

    module_missing = module.MISSING
    with pytest.raises(TypeError, match=r"variable 'module_missing'.*'MISSING' from 'notebook'.*define it in a module"):
        pack_code(model, ())
    with pytest.raises(TypeError, match=r"init argument 0.*'MISSING' from 'notebook'"):
        pack_code(Sentinel, (module_missing,))
    with pytest.raises(TypeError, match="'MISSING' from 'notebook'"):
        pickling.dumps({"value": module_missing})
    with pytest.raises(ByNameOnlyError):
        dumps([module_missing])


app = fastapi.FastAPI()
lock = threading.Lock()
pool = ThreadPoolExecutor(1)


@app.get("/")
def root() -> str:
    return app.title


class Proxy:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


proxy = Proxy([1])


def mentions_an_app(request: Any) -> Any:
    return app.routes


def mentions_a_proxy(request: Any) -> Any:
    return proxy.count(1)


def calls_one_that_mentions(request: Any) -> Any:
    def inner() -> Any:
        return lock.locked()

    return inner()


def has_a_default(request: Any = pool) -> None: ...


@functools.lru_cache
def is_cached(request: Any) -> Any:
    return calls_one_that_mentions(request)


def calls_a_cached_one(request: Any) -> Any:
    return is_cached(request)


class Base:
    guard = threading.Lock()


class Inherits(Base):
    def __call__(self, request: Any) -> None: ...


class HasAProperty:
    @property
    def open(self) -> bool:
        return lock.locked()

    def __call__(self, request: Any) -> None: ...


class Holds:
    def __init__(self) -> None:
        self.lock = threading.Lock()


held = Holds()


def mentions_a_holder(request: Any) -> Any:
    return held


@pytest.mark.parametrize(
    ("name", "culprit"),
    [
        ("mentions_an_app", "variable 'app' used by mentions_an_app (a FastAPI)"),
        ("mentions_a_proxy", "variable 'proxy' used by mentions_a_proxy (a Proxy)"),
        ("calls_one_that_mentions", "variable 'lock' used by calls_one_that_mentions (a lock)"),
        ("has_a_default", "default of argument 'request' of has_a_default (a ThreadPoolExecutor)"),
        ("calls_a_cached_one", "variable 'lock' used by calls_one_that_mentions (a lock)"),
        ("Inherits", "attribute 'guard' of class Base (a lock)"),
        ("HasAProperty", "variable 'lock' used by HasAProperty.open (a lock)"),
        ("mentions_a_holder", "attribute 'lock' of variable 'held' used by mentions_a_holder (a lock)"),
    ],
)
@pytest.mark.usefixtures("forget")
def test_the_innermost_culprit_is_named(name: str, culprit: str) -> None:
    """A user reads which variable it is that cannot be sent, however far it is from the backend, and what to do; an
    app that could not be loaded there is told of here (CB12)."""
    with pytest.raises(TypeError) as caught:
        pack_code(getattr(load("a script", file=Path(__file__)), name), ())
    text = str(caught.value)
    assert text.startswith(f"{name} cannot be sent to replicas: {culprit} cannot be pickled (")
    assert text.endswith("make it in the constructor, or where it is first used")
    assert "RecursionError" not in text


def test_what_is_nested_too_deeply_is_told() -> None:
    """An argument that is nested without end is refused by its place among the arguments (CB12)."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TypeError, match=r"^Proxy cannot be sent to replicas: init argument 0 \(a list\) cannot"):
        pack_code(Proxy, (deep,))


def test_middlewares_travel(forget: None) -> None:
    """A middleware of a module that is not found by its name goes to the HTTP server by value; one that cannot be sent
    is named (CB12)."""
    module = load("strange")
    packed = pack_middlewares(HTTPOptions(middlewares=[Middleware(module.Cached, limit=module.fibonacci)]))
    assert not lacking(packed)
    with pytest.raises(TypeError, match=r"middlewares cannot be pickled: .*'guard'.* of middleware 1 .a lock."):
        pack_middlewares(HTTPOptions(middlewares=[Middleware(Proxy), Middleware(Proxy, guard=threading.Lock())]))


def test_what_the_user_has_registered_goes_by_value() -> None:
    """A module that its user has told cloudpickle to send by value is, cached functions included."""
    from tests.unit import kinds

    cloudpickle.register_pickle_by_value(kinds)
    try:
        assert ("tests.unit.kinds", "fibonacci") not in set(globals_of(dumps(kinds.cached)))
        assert cloudpickle.list_registry_pickle_by_value() == {"tests.unit.kinds"}
    finally:
        cloudpickle.unregister_pickle_by_value(kinds)


@pytest.mark.usefixtures("forget")
def test_arguments_of_such_classes_travel(tmp_path: Path) -> None:
    """An argument of a handle whose class replicas cannot import is by value there, and one that they can is not."""
    module = load("strange")
    packed = pickling.dumps([module.Point(4), module.Color.BLUE])
    assert not lacking(packed)
    assert ("strange", "Point") not in set(globals_of(packed))
    (point, color) = pickling.loads(packed)  # here it is the same class again
    assert (point, color) == (module.Point(4), module.Color.BLUE)
    path = Path(tmp_path)
    assert ("pathlib", "PosixPath") in {(name.split(".")[0], kind) for name, kind in globals_of(pickling.dumps(path))}


tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")
unset: contextvars.ContextVar[str] = contextvars.ContextVar("unset")


def test_context_variables_of_a_script_travel_and_those_of_modules_stay_theirs(tmp_path: Path, forget: None) -> None:
    """A script's ContextVar comes with its default, one for all who use it; that of a module is the module's (CB12)."""
    script = tmp_path / "script.py"
    script.write_text("import contextvars\ntenant = contextvars.ContextVar('tenant', default='nobody')\n")
    own = load("a_script", file=script).tenant
    first, second = pickle.loads(dumps((own, [own])))
    assert first is second[0]
    assert first is not own
    assert (first.name, first.get()) == ("tenant", "nobody")
    assert pickle.loads(dumps(tenant)) is tenant
    assert pickle.loads(dumps(unset)) is unset
    loose = pickle.loads(dumps(contextvars.ContextVar("loose")))
    with pytest.raises(LookupError):
        loose.get()


def test_an_object_beside_the_name_of_its_module(tmp_path: Path, forget: None) -> None:
    """A module's name as a value, before an object of one of its classes, hides nothing (CB12)."""
    script = tmp_path / "script.py"
    script.write_text("class Made:\n    pass\nclass Данные:\n    pass\nname = __name__\n")
    made = load("made_here_under_a_name_that_is_rather_long", file=script)
    values: tuple[Any, ...] = ({"src": made.name, "x": made.Made()}, [made.Made.__module__, made.Made()])
    for value in (*values, (made.name, made.Made), (140, made.Made()), made.Данные(), [made.Made(), made.Данные()]):
        assert may_name_unfindable(pickle.dumps(value, 5))
        again = run_fresh(pickling.dumps([functools.partial(type, value)]), tmp_path)
        assert "class" in again
    assert not may_name_unfindable(pickle.dumps([pytest.Module, pytest.Class, pytest.Module.__module__], 5))
