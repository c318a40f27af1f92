"""environments: what users may write, and what a process of an environment inherits."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest

import pointsman as serve
from pointsman.client.packing import check_bytecode
from pointsman.environments.interpreter import OPTIONAL, RUNTIME, Facts, check
from pointsman.environments.kinds import parse_env
from pointsman.environments.resolve import caller, resolve
from pointsman.model import Environment
from pointsman.usercode.packing import carries_code, pack_code, unpack_code
from pointsman.usercode.paths import PACKAGE, added_sys_path, python_path
from pointsman.wire.frames import PROTOCOL_VERSION

HERE = ".".join(map(str, sys.version_info[:3]))
ENVIRONMENT = Environment("virtualenv", "/env", "/env/bin/python", HERE)


def module_function(request: object) -> str:
    return "module"


# --- what users write -------------------------------------------------------------------------------------------


def test_kinds_of_env() -> None:
    """An environment may be given as an object, or as a string that names a conda environment (DM2)."""
    virtual = serve.VirtualEnv("/env")
    assert parse_env(None) is None
    assert parse_env(virtual) is virtual
    assert parse_env("tf1") == serve.CondaEnv("tf1") == parse_env(serve.CondaEnv("tf1"))


@pytest.mark.parametrize("env", [3, b"tf1", Path("/env"), ["tf1"], serve.VirtualEnv])
def test_other_kinds_are_refused(env: object) -> None:
    """Whoever passes something else is told what may be passed (DM2)."""
    with pytest.raises(TypeError, match="env must be"):
        parse_env(env)


@pytest.mark.parametrize("name", ["/opt/env", "envs/tf1", "./tf1"])
def test_path_as_conda_name(name: str) -> None:
    """Whoever passes a path as a string learns of VirtualEnv (DM2)."""
    with pytest.raises(ValueError, match=r"is a path.*VirtualEnv"):
        parse_env(name)


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a\0b", "a\nb"])
def test_names_that_no_conda_environment_has(name: str) -> None:
    """A name that would lead elsewhere is refused (DM2, S12)."""
    with pytest.raises(ValueError, match="conda environment"):
        serve.CondaEnv(name)


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path means the folder that its writer works in (DM8)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    assert serve.VirtualEnv("env").path == str(tmp_path / "env")
    assert serve.VirtualEnv(Path("env")) == serve.VirtualEnv(tmp_path / "env")
    assert serve.VirtualEnv("~/env").path == "/home/ada/env"


@pytest.mark.parametrize(
    ("path", "error"), [(3, TypeError), (b"/env", TypeError), ("", ValueError), ("\0", ValueError)]
)
def test_paths_that_are_none(path: object, error: type[Exception]) -> None:
    """VirtualEnv says what it takes (DM2)."""
    with pytest.raises(error, match="path of a folder"):
        serve.VirtualEnv(path)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["pkg.mod.Class", "pkg.mod:Class", "pkg:Outer.Inner"])
def test_imported_backend_is_what_it_names(path: str) -> None:
    """An ImportedBackend is a value: equal by path, and shown as it was written (DM4)."""
    assert serve.ImportedBackend(path) == serve.backends.ImportedBackend(path)
    assert repr(serve.ImportedBackend(path)) == f"ImportedBackend({path!r})"
    assert serve.ImportedBackend(path) != serve.ImportedBackend("other.Class")


@pytest.mark.parametrize("path", ["", "Class", "pkg/mod.Class", "pkg.mod:", ":Class", ".mod.Class", "a b.C", "pkg..C"])
def test_import_paths_that_are_none(path: str) -> None:
    """A path that cannot be imported anywhere is refused at once (DM4)."""
    with pytest.raises(ValueError, match="is not an import path"):
        serve.ImportedBackend(path)


def test_imported_backend_is_unpickled_as_the_real_thing() -> None:
    """Replicas import what is named; the process that packs it does not (DM4)."""
    packed = pack_code(serve.ImportedBackend("pydoc_data.topics:topics.get"), (1,))
    assert "pydoc_data.topics" not in sys.modules
    function, init_args = unpack_code(packed)
    assert function("assert") == sys.modules["pydoc_data.topics"].topics["assert"]
    assert init_args == (1,)


# --- crossing minor versions ------------------------------------------------------------------------------------


def test_code_by_value_is_seen() -> None:
    """Bytecode in a pickle is found, however deep; names and data are none (DM6)."""

    class Local:
        def __call__(self, request: object) -> str:
            return "local"

    assert carries_code(pack_code(Local, ()))
    assert carries_code(pack_code(serve.ImportedBackend("a.B"), ({"deep": [lambda: 1]},)))
    assert not carries_code(pack_code(module_function, ()))
    assert not carries_code(pack_code(serve.ImportedBackend("a.B"), ({"x": 1}, b"CodeType", "CodeType")))
    assert not carries_code(pickle.dumps("CodeType"))


def test_code_does_not_cross_minor_versions() -> None:
    """Code by value for another Python is refused with both versions and the way out; data passes (DM6)."""
    other = Environment("virtualenv", "/env", "/env/bin/python", "3.99.1")
    code = cloudpickle.dumps(lambda: 1)
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    with pytest.raises(ValueError, match=rf"greet.*Python {here}.*Python 3\.99.*'/env'.*ImportedBackend"):
        check_bytecode(code, "greet", other)
    check_bytecode(code, "greet", ENVIRONMENT)
    check_bytecode(code, "greet", None)
    check_bytecode(cloudpickle.dumps({"x": 1}), "user_config", other)


# --- what an interpreter says -----------------------------------------------------------------------------------


def facts(**changes: object) -> Facts:
    usual = {
        "version": (3, 11, 7), "build": "", "missing": [], "pointsman": "", "wire": 0, "problem": "",
    }  # fmt: skip
    return Facts(**{**usual, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (facts(version=(3, 8, 18)), ["'/env'", "3.8.18", "3.10"]),
        (facts(missing=["msgspec"]), ["'/env'", "msgspec", "/env/bin/python -m pip install 'msgspec>="]),
        (facts(pointsman="9.0", wire=99), ["'/env'", "9.0", "99", serve.__version__, str(PROTOCOL_VERSION)]),
        (facts(problem="importing pointsman failed: oh"), ["'/env'", "/env/bin/python", "oh"]),
    ],
)
def test_environments_that_cannot_run_replicas(answer: Facts, parts: list[str]) -> None:
    """Each lack is named with the environment, what is there and what would be right (DM6)."""
    with pytest.raises(ValueError) as caught:
        check(ENVIRONMENT, answer)
    assert all(part in str(caught.value) for part in parts), caught.value
    assert "\n" not in str(caught.value)


def test_environments_that_can() -> None:
    """The same package, or none where its own needs are met, is enough (DM6)."""
    check(ENVIRONMENT, facts())
    check(ENVIRONMENT, facts(pointsman=serve.__version__, wire=PROTOCOL_VERSION, version=(3, 13, 0)))


# --- variables --------------------------------------------------------------------------------------------------


def test_variables_of_a_process() -> None:
    """What an environment sets wins over what is inherited, what it unsets is gone, and its folders lead PATH (DM5)."""
    environment = Environment("conda", "e", "p", "3.11.7", {"A": "new", "B": "b"}, ("GONE", "NEVER"), ("/e/bin", "/x"))
    inherited = {"A": "old", "GONE": "1", "KEPT": "k", "PATH": "/usr/bin"}
    assert environment.over(inherited) == {"A": "new", "B": "b", "KEPT": "k", "PATH": "/e/bin:/x:/usr/bin"}
    assert inherited["A"] == "old"
    assert environment.over({})["PATH"] == "/e/bin:/x"
    assert "PATH" not in Environment("caller", "e", "p", "3.11.7").over({})


def test_environment_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without env replicas get this very interpreter, and find this very package (DM3)."""
    monkeypatch.setenv("VIRTUAL_ENV", "/mine")
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    environment = resolve(None)
    assert environment == caller()
    assert environment.python == sys.executable
    process = environment.over({"VIRTUAL_ENV": "/theirs", "CONDA_PREFIX": "/theirs", "KEPT": "k"})
    assert process["VIRTUAL_ENV"] == "/mine"
    assert "CONDA_PREFIX" not in process
    code = "import pointsman; print(pointsman.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=process, cwd="/", capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == serve.__file__


def test_own_package_is_put_on_the_path_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client inside a replica ships code too: its path does not grow from generation to generation (DM3)."""
    first = python_path()
    monkeypatch.setenv("PYTHONPATH", first)
    assert python_path() == first


def test_only_what_users_added_travels_to_another_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A backend finds the modules of its script in any environment, and no package of the driver's (DM1)."""
    monkeypatch.syspath_prepend(str(tmp_path))
    given = added_sys_path()
    assert str(tmp_path) in given
    assert os.path.dirname(os.path.dirname(pytest.__file__)) not in given
    assert os.path.dirname(os.__file__) not in given


def test_replicas_import_nothing_else() -> None:
    """What an environment is asked for is all that a replica imports: another import would be missing there (DM6)."""
    code = "import sys, pointsman.replica.__main__; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(subprocess.check_output([sys.executable, "-S", "-c", code], env=with_sites(), text=True).split())
    foreign = loaded - set(sys.stdlib_module_names) - {"pointsman", "pointsman__mypyc", "__main__"}
    assert foreign - {"typing_extensions"} <= {*RUNTIME, *OPTIONAL}  # which msgspec looks for


@pytest.mark.parametrize(
    ("process", "unwanted"),
    [
        ("engine.local.supervisor", {"asyncio", "pydantic"}),
        ("controller.__main__", {"pydantic", "starlette"}),
        ("ingress.__main__", {"pydantic"}),
        ("replica.__main__", {"pydantic", "starlette"}),
    ],
)
def test_a_start_waits_for_no_needless_import(process: str, unwanted: set[str]) -> None:
    """An instance is there as soon as it can be: its processes load nothing large that they do not use (IN1)."""
    code = f"import sys, pointsman.{process}; print(*sys.modules)"
    loaded = set(subprocess.check_output([sys.executable, "-S", "-c", code], env=with_sites(), text=True).split())
    assert not loaded & unwanted


def with_sites() -> dict[str, str]:
    """Variables of a process that finds packages without running the code of .pth files."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_our_own_package_is_where_it_is() -> None:
    """An environment without Pointsman gets this very package on its import path (DM6)."""
    assert Path(PACKAGE) == Path(serve.__file__).parent
