"""The modules that `make dist` compiles: what they must not have, and what must hold in the compiled form, too."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest

import pointsman
from pointsman.incoming import RequestHead
from pointsman.testing import MemoryReplica, run
from pointsman.usercode.paths import parts_of
from pointsman.wire.frames import WireError
from pointsman.wire.messages import CallHead, ReplyHead, pack, unpack
from tests.conftest import COMPILED
from tests.properties import PROFILE

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

REPOSITORY = Path(__file__).parents[2]
SOURCE = REPOSITORY / "src" / "pointsman"
PACKAGE = Path(pointsman.__file__).parent
HOOK = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]
MODULES: list[str] = HOOK["custom"]["modules"]


def dotted(module: str) -> str:
    return "pointsman." + module.replace("/", ".")


@pytest.mark.parametrize("module", MODULES)
def test_what_is_compiled_can_be(module: str) -> None:
    """A change that a compiler would change the meaning of, or refuse, is found without one: a class that msgspec
    decodes, an exception of another layout, a name that C reserves, a weak reference, which mypyc's code frees."""
    tree = ast.parse((SOURCE / f"{module}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
            assert not bases & {
                "Struct",
                "Message",
                "dict",
                "list",
                "str",
                "int",
                "TypeError",
                "TimeoutError",
                "OSError",
            }
            assert not any(isinstance(inner, ast.ClassDef) for inner in ast.walk(node) if inner is not node)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            assert "weakref" not in [getattr(node, "module", ""), *(name.name for name in node.names)]
        if isinstance(node, ast.Attribute):
            assert node.attr != "_thread"
        if isinstance(node, (ast.AsyncFunctionDef,)):
            assert not any(isinstance(inner, (ast.Yield, ast.YieldFrom)) for inner in ast.walk(node))


def test_nothing_derives_from_what_is_compiled_but_what_is_compiled_too() -> None:
    """A class that is interpreted, and has a compiled one as its base, is found: no object of it could be made."""
    for path in SOURCE.rglob("*.py"):
        if str(path.relative_to(SOURCE).with_suffix("")) in MODULES:
            continue
        tree = ast.parse(path.read_text())
        compiled: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in map(dotted, MODULES):
                compiled |= {name.asname or name.name for name in node.names}
        bases = [ast.unparse(base) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases]
        assert not compiled & {base.partition("[")[0] for base in bases}, path


def test_the_form_is_what_the_header_says() -> None:
    """All modules of the list are compiled in a compiled wheel, and none in any other installation."""
    files = [importlib.import_module(dotted(module)).__file__ or "" for module in MODULES]
    assert [file for file in files if file.endswith(".py") is COMPILED] == []


def structs() -> list[type[msgspec.Struct]]:
    for path in PACKAGE.rglob("*.py"):
        if "Struct" in path.read_text():
            importlib.import_module("pointsman." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts))
    found, rest = set(), [msgspec.Struct]
    while rest:
        kind = rest.pop()
        rest += [below for below in kind.__subclasses__() if below not in found]
        found |= {below for below in kind.__subclasses__() if below.__module__.startswith("pointsman.")}
    return sorted(found, key=str)


def test_no_struct_is_in_a_compiled_module() -> None:
    """Wherever a class for msgspec is made, it is not where the types of its fields would be lost."""
    compiled = {dotted(module) for module in MODULES}
    assert len(structs()) > 80
    assert [kind for kind in structs() if kind.__module__ in compiled] == []


def test_the_types_of_fields_are_not_lost() -> None:
    """What msgspec accepts for a field is what the source says, for all classes that travel."""
    for kind in structs():
        hints = get_type_hints(kind, vars(sys.modules[kind.__module__]))
        try:
            info: Any = msgspec.inspect.type_info(kind)
        except TypeError:  # with a union that cannot be decoded, and never is
            continue
        for field in info.fields:
            if hints[field.name] not in (Any, object):
                assert not isinstance(field.type, msgspec.inspect.AnyType), f"{kind.__name__}.{field.name}"


REQUEST = RequestHead("e", 0, "", "GET", b"/", b"", [(b"a", b"b")], {}, "id", None)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (CallHead, [[*msgspec.to_builtins(REQUEST)], "soon"]),
        (ReplyHead, [200, [["not", "bytes", 3]], 0]),
        (ReplyHead, [200, [b"no pair"], 0]),
        (ReplyHead, ["200", [], 0]),
    ],
)
def test_a_value_of_another_type_is_refused(kind: type[Any], fields: list[Any]) -> None:
    """A peer that sends a field of another type is refused, elements of lists included (in the wheel as elsewhere)."""
    with pytest.raises(WireError):
        unpack(pack(fields), kind)
    assert unpack(pack(ReplyHead(200, [(b"a", b"b")], 0)), ReplyHead).headers == [(b"a", b"b")]


class Broken:
    def __init__(self) -> None:
        raise OSError("no weights")

    def __call__(self, request: object) -> None: ...


def test_an_exception_says_where_it_comes_from() -> None:
    """A constructor that raises on the thread of user code is found by the traceback, which has come through two
    coroutines and a task (CB10)."""

    async def main() -> None:
        async with MemoryReplica(Broken, travels=False):
            pass

    with pytest.raises(OSError, match="no weights") as caught:
        run(main())
    assert [entry.name for entry in caught.traceback][-1] == "__init__"


def test_sources_can_be_had_from_a_compiled_wheel() -> None:
    """With POINTSMAN_PURE=1 a process imports the sources, whatever lies beside them."""
    code = (
        "import pointsman.routing.pool as pool, pointsman.wire.stream as stream; print(pool.__file__, stream.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "POINTSMAN_PURE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [Path(file).name for file in done.stdout.split()] == ["pool.py", "stream.py"]


def test_what_is_compiled_is_found_in_any_folder(tmp_path: Path) -> None:
    """An environment that borrows this installation gets its compiled part, too, also from a folder like ``[a]``."""
    folder = tmp_path / "[a]*"
    (folder / "pointsman").mkdir(parents=True)
    compiled = folder / "pointsman__mypyc.cpython.so"
    compiled.touch()
    assert parts_of(str(folder / "pointsman")) == (str(folder / "pointsman"), str(compiled))


@pytest.mark.timeout(1200)  # half a minute of processor time, on a machine that may be busy
@pytest.mark.skipif(PROFILE == "gate", reason="make test-long has it, and compiles them")
@pytest.mark.skipif(not SOURCE.is_dir(), reason="there is no source tree")
def test_mypyc_takes_them(tmp_path: Path) -> None:
    """What is compiled passes mypyc's own checks; they take a quarter of the time that compiling does."""
    pytest.importorskip("setuptools", reason="mypyc needs it")
    program = f"""
import sys, types
from pathlib import Path
for name in ("hatchling", "hatchling.builders", "hatchling.builders.hooks", "hatchling.builders.hooks.plugin"):
    sys.modules[name] = types.ModuleType(name)
interface = sys.modules["hatchling.builders.hooks.plugin.interface"] = types.ModuleType("interface")
interface.BuildHookInterface = object
import hatch_build
hatch_build.to_c(Path({str(SOURCE.parent)!r}), {MODULES!r}, Path({str(tmp_path)!r}))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
