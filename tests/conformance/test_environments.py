"""Backends in Python environments of their own. The environments are real; each is made once."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import pointsman as serve
from pointsman.wire.frames import PROTOCOL_VERSION
from tests.conftest import UNWATCHED, wait_until
from tests.elsewhere import Asks, interpreter, versions
from tests.environments import PYENV, Environments, other_python, site_packages

Served = Callable[..., str]
OLD, NEW = "semver==2.13.0", "semver==3.0.2"

MODEL = """
import sys

import pointsman as serve
import semver


class Model:
    def __init__(self, name):
        self.name, self.factor = name, None

    def reconfigure(self, user_config):
        self.factor = user_config

    @serve.accept_batch
    def __call__(self, requests):
        return [[self.name, self.factor, semver.__version__, len(requests)] for _ in requests]

    def where(self, requests):
        return [[sys.executable, sys.prefix, sys.version_info[1]] for _ in requests]


async def coroutine(request):
    return semver.__version__


def two(request, more):
    return "two"
"""


BUSY = """
import subprocess
import threading
import time

subprocess.Popen(["sleep", "3600"])
threading.Thread(target=time.sleep, args=(3600,)).start()


def model(request):
    return "busy"
"""


@pytest.fixture(scope="module")
def installed(environments: Environments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with a module of a model that this process has no source of."""
    prefix = environments.copy(NEW, to=tmp_path_factory.mktemp("installed") / "env")
    (site_packages(prefix) / "elsewhere_model.py").write_text(MODEL)
    (site_packages(prefix) / "elsewhere_broken.py").write_text("def model(:\n")
    (site_packages(prefix) / "elsewhere_busy.py").write_text(BUSY)
    (site_packages(prefix) / "elsewhere_exit.py").write_text("import sys\nsys.exit(7)\n")
    return prefix


@pytest.fixture
def refused(client: serve.Client, name: str) -> Iterator[Callable[..., str]]:
    """Creates a backend that must be refused, checks that nothing is left of it, and returns the error's text."""

    def create(env: Any, code: Any = interpreter, *, error: type[Exception] = ValueError, **options: Any) -> str:
        with pytest.raises(error) as caught:
            client.create_backend(name, code, env=env, **options)
        assert name not in client.list_backends()
        text = str(caught.value)
        assert "\n" not in text
        return text

    yield create
    assert name not in client.list_backends()


# --- several at once --------------------------------------------------------------------------------------------


def test_incompatible_versions_side_by_side(
    client: serve.Client, http: httpx.Client, served: Served, environments: Environments
) -> None:
    """Two backends that need two incompatible versions of one package answer at once, each with its own interpreter
    (DM1, DM5)."""
    old, new = environments.get(OLD), environments.get(NEW)
    client.create_backend("old-semver", versions, env=serve.VirtualEnv(old))
    client.create_endpoint("old-semver", backend="old-semver", route="/old-semver")
    route = served(versions, env=serve.VirtualEnv(new))
    for _ in range(3):
        assert http.get("/old-semver").json() == ["2.13.0", False, str(old / "bin" / "python"), str(old)]
        assert http.get(route).json() == ["3.0.2", True, str(new / "bin" / "python"), str(new)]
    client.delete_endpoint("old-semver")
    client.delete_backend("old-semver")


def test_another_python(
    client: serve.Client, http: httpx.Client, served: Served, environments: Environments, tmp_path: Path
) -> None:
    """A backend that is named runs on another minor version of Python beside those of this one (DM4, DM6)."""
    prefix = environments.get(NEW, python=other_python())
    module = site_packages(prefix) / "other_minor_model.py"
    module.write_text(MODEL)
    route = served(
        serve.ImportedBackend("other_minor_model.Model"),
        "m",
        env=serve.VirtualEnv(prefix),
        config={"http_methods": ["where"]},
    )
    assert http.post(route).json() == ["m", None, "3.0.2", 1]
    executable, _, minor = http.post(route, headers={"X-SERVE-CALL-METHOD": "where"}).json()
    assert executable == str(prefix / "bin" / "python")
    assert minor != sys.version_info[1]
    with pytest.raises(ValueError, match="user_config would be sent as bytecode"):
        client.update_backend_config(route[1:], {"user_config": lambda: 1})
    client.update_backend_config(route[1:], {"user_config": {"plain": 1}})
    assert http.post(route).json()[1] == {"plain": 1}


@pytest.mark.same_on_ray
def test_source_crosses_versions(http: httpx.Client, served: Served, environments: Environments) -> None:
    """A function of a module that the other Python can import is sent by name, so any Python can run it (DM6)."""
    prefix = environments.get(NEW, python=other_python())
    assert http.get(served(interpreter, env=serve.VirtualEnv(prefix))).json()[1] == str(prefix)


def test_code_by_value_stays_with_its_python(refused: Callable[..., str], environments: Environments) -> None:
    """A class of the script cannot go to another Python, and its author learns both versions and what to do (DM6)."""

    class Local:
        def __call__(self, request: Any) -> str:
            return "local"

    prefix = environments.get(NEW, python=other_python())
    text = refused(serve.VirtualEnv(prefix), Local)
    assert "Local" in text
    assert f"Python 3.{sys.version_info[1]}" in text
    assert str(prefix) in text
    assert "ImportedBackend" in text


def test_without_env_it_is_the_callers(http: httpx.Client, served: Served) -> None:
    """Whoever gives no environment gets the one of the calling process (DM3)."""
    assert http.get(served(interpreter)).json() == [sys.executable, sys.prefix, os.environ.get("VIRTUAL_ENV", "")]


def test_handles_reach_out_of_it(
    client: serve.Client, http: httpx.Client, served: Served, environments: Environments, name: str
) -> None:
    """A backend in an environment of its own calls one of the caller's by a handle among its init args (CO1, DM1)."""
    client.create_backend(f"{name}-here", interpreter)
    client.create_endpoint(f"{name}-here", backend=f"{name}-here")
    prefix = environments.get(OLD)
    route = served(Asks, client.get_handle(f"{name}-here"), env=serve.VirtualEnv(prefix))
    there, (_, here, _) = http.get(route).json()
    assert (there, here) == (str(prefix), sys.prefix)
    client.delete_endpoint(f"{name}-here")
    client.delete_backend(f"{name}-here")


def test_relative_path(
    http: httpx.Client, served: Served, environments: Environments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is taken from the caller's folder, and the environment's variables are set (DM8, DM5)."""
    prefix = environments.get(OLD)
    monkeypatch.chdir(prefix.parent)
    route = served(interpreter, env=serve.VirtualEnv(prefix.name))
    assert http.get(route).json() == [str(prefix / "bin" / "python"), str(prefix), str(prefix)]


def test_replacements_run_there_too(
    client: serve.Client, served: Served, name: str, environments: Environments, tmp_path: Path
) -> None:
    """A replica that is killed is replaced in its environment; when that is gone, status says what is missing (FT3)."""
    prefix = environments.copy(OLD, to=tmp_path / "env")
    served(versions, env=serve.VirtualEnv(prefix))

    def kill() -> None:
        os.kill(client.status()["backends"][name]["replicas"][0]["pid"], signal.SIGKILL)

    kill()
    assert client.get_handle(name).options(timeout_s=30).remote().result()[3] == str(prefix)
    shutil.rmtree(prefix)
    kill()
    missing = f"could not be started: [Errno 2] No such file or directory: '{prefix}/bin/python'"
    failure = lambda: client.status()["backends"][name]["failure"] or {"text": ""}  # noqa: E731
    wait_until(lambda: missing in failure()["text"], what="the missing interpreter in the status")


# --- ImportedBackend --------------------------------------------------------------------------------------------


def test_imported_class(client: serve.Client, http: httpx.Client, served: Served, installed: Path) -> None:
    """A class that the driver cannot import is served with init args, user_config, updates and its other methods, and
    its markers are found: it batches (DM4)."""
    assert importlib.util.find_spec("elsewhere_model") is None
    code = serve.ImportedBackend("elsewhere_model.Model")
    config = {"max_batch_size": 4, "batch_wait_timeout": 60, "user_config": 3, "http_methods": ["where"]}
    route = served(code, "m", env=serve.VirtualEnv(installed), config=config)
    handle = client.get_handle(route[1:])
    answers = serve.get([handle.remote() for _ in range(4)])
    assert answers == [["m", 3, "3.0.2", 4]] * 4
    client.update_backend_config(route[1:], {"user_config": 4, "batch_wait_timeout": 0})
    assert http.get(route).json()[1] == 4
    where = http.get(route, headers={"X-SERVE-CALL-METHOD": "where"}).json()
    assert where[:2] == [str(installed / "bin" / "python"), str(installed)]


@pytest.mark.same_on_ray
def test_imported_function(http: httpx.Client, served: Served, installed: Path) -> None:
    """An async function is named with a colon, and gets an async request (DM4)."""
    assert (
        http.get(served(serve.ImportedBackend("elsewhere_model:coroutine"), env=serve.VirtualEnv(installed))).text
        == "3.0.2"
    )


def test_import_that_leaves_work_behind(http: httpx.Client, served: Served, installed: Path) -> None:
    """A module that starts processes and threads when it is imported is not waited for when it is tried (DM4)."""
    assert (
        http.get(served(serve.ImportedBackend("elsewhere_busy:model"), env=serve.VirtualEnv(installed))).text == "busy"
    )


def test_imported_without_env(
    http: httpx.Client, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the caller's own environment, too, the module is imported by replicas only (DM3, DM4)."""
    (tmp_path / "beside_the_script.py").write_text("def model(request):\n    return 'imported'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert http.get(served(serve.ImportedBackend("beside_the_script:model"))).text == "imported"
    assert "beside_the_script" not in sys.modules


@pytest.mark.parametrize(
    ("path", "error", "parts"),
    [
        ("elsewhere_missing.Model", ValueError, ["No module named 'elsewhere_missing'", "env"]),
        ("elsewhere_model.Modell", ValueError, ["'elsewhere_model' has no 'Modell'", "env"]),
        ("elsewhere_broken:model", ValueError, ["SyntaxError", "elsewhere_broken.py, line 1", "env"]),
        ("elsewhere_exit:model", ValueError, ["SystemExit", "env"]),
        ("elsewhere_model:two", TypeError, ["two also requires: more"]),
        ("elsewhere_model:semver", TypeError, ["a backend is a plain function or a class"]),
    ],
)
def test_imports_that_fail(
    refused: Callable[..., str], installed: Path, path: str, error: type[Exception], parts: list[str]
) -> None:
    """What cannot be imported, or be a backend, shows at the caller with the environment's path (DM4, DM6)."""
    text = refused(serve.VirtualEnv(installed), serve.ImportedBackend(path), error=error)
    assert all(part in text for part in parts), text


def test_rules_hold_for_imported_code(refused: Callable[..., str], installed: Path) -> None:
    """A function cannot take init args or a user_config, also when only the replica sees that it is one (CB2, CB8)."""
    env, code = serve.VirtualEnv(installed), serve.ImportedBackend("elsewhere_model:coroutine")
    assert "has no reconfigure" in refused(env, code, config={"user_config": 1})
    assert "accept_batch" in refused(env, code, config={"max_batch_size": 2})


# --- environments that will not do ------------------------------------------------------------------------------


def test_missing_environment(refused: Callable[..., str], tmp_path: Path) -> None:
    """An environment that is not there, or is none, is named with what is wrong with it (DM6)."""
    assert f"'{tmp_path}/none' does not exist" in refused(serve.VirtualEnv(tmp_path / "none"))
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(serve.VirtualEnv(tmp_path / "file"))
    assert f"no interpreter: {tmp_path}/bin/python does not exist" in refused(serve.VirtualEnv(tmp_path))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to("/gone/python")
    assert "leads nowhere" in refused(serve.VirtualEnv(tmp_path))


def test_interpreter_that_is_none(refused: Callable[..., str], tmp_path: Path) -> None:
    """A program that only has the name is found out, as is one that cannot be run (DM6)."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho 'not a python' >&2\n")
    assert "cannot be run: Permission denied" in refused(serve.VirtualEnv(tmp_path))
    python.chmod(0o755)
    assert "does not work: not a python" in refused(serve.VirtualEnv(tmp_path))


def test_old_interpreter(refused: Callable[..., str]) -> None:
    """A Python that is too old says how old it is (DM6)."""
    found = [path for minor in ("3.9", "3.8", "3.7", "2.7") for path in PYENV.glob(f"{minor}.*")]
    if not found:
        pytest.skip(f"no Python older than 3.10 is in {PYENV}")
    assert f"has Python {found[0].name}, and Pointsman needs 3.10" in refused(serve.VirtualEnv(found[0]))


def test_packages_that_replicas_need(refused: Callable[..., str], environments: Environments) -> None:
    """An environment without them is refused with the command that installs them (DM6)."""
    prefix = environments.get(runtime=False)
    text = refused(serve.VirtualEnv(prefix))
    assert "lacks cloudpickle, msgspec, starlette" in text
    assert f"{prefix}/bin/python -m pip install" in text


def test_packages_that_are_too_old(refused: Callable[..., str], environments: Environments) -> None:
    """A version that replicas cannot use counts as missing, and the command says which would do (DM6)."""
    prefix = environments.get("starlette==0.35.1", runtime=False)
    text = refused(serve.VirtualEnv(prefix))
    assert "lacks cloudpickle, msgspec, starlette" in text
    assert "'starlette>=" in text


def test_package_that_user_code_needs(refused: Callable[..., str], environments: Environments) -> None:
    """A class of a module that needs a package which the environment lacks is refused before it is started (DM6)."""
    import httpx

    text = refused(serve.VirtualEnv(environments.get(OLD)), httpx.Client)
    assert "Client cannot be loaded" in text
    assert "No module named 'httpx'" in text


def test_other_wire_version(refused: Callable[..., str], environments: Environments, tmp_path: Path) -> None:
    """A pointsman there that speaks another wire version is refused, naming both (DM6)."""
    prefix = environments.copy(OLD, to=tmp_path / "env")
    package = site_packages(prefix) / "pointsman"
    (package / "wire").mkdir(parents=True)
    for file, text in {"__init__": "", "version": "VERSION = '9.9'", "wire/__init__": ""}.items():
        (package / f"{file}.py").write_text(text)
    (package / "wire" / "frames.py").write_text("PROTOCOL_VERSION = 99")
    text = refused(serve.VirtualEnv(prefix))
    assert "pointsman 9.9 (wire version 99)" in text
    assert f"pointsman {serve.__version__} (wire version {PROTOCOL_VERSION})" in text


@pytest.mark.parametrize("which", ["", "bin", "lib/site-packages"])
def test_environment_that_everyone_may_change(
    refused: Callable[..., str], environments: Environments, tmp_path: Path, which: str
) -> None:
    """Code that anyone on the machine could have put there does not run (DM8, S11)."""
    prefix = environments.copy(OLD, to=tmp_path / "env")
    folder = site_packages(prefix) if "lib" in which else prefix / which
    folder.chmod(folder.stat().st_mode | stat.S_IWOTH)
    assert f"everyone may write to {folder}" in refused(serve.VirtualEnv(prefix))


@pytest.mark.parametrize(("env", "error"), [(3, TypeError), ("/opt/env", ValueError), ("", ValueError)])
def test_env_of_another_kind(refused: Callable[..., str], env: object, error: type[Exception]) -> None:
    """What is no environment is refused with what would be one (DM2, CB7)."""
    assert "env" in refused(env, error=error)


@pytest.mark.same_on_ray
def test_taken_tag(client: serve.Client, served: Served, environments: Environments) -> None:
    """A tag that is taken is refused also with an environment, and the backend of that tag runs on (CB1)."""
    route = served(interpreter)
    with pytest.raises(ValueError, match="exists already"):
        client.create_backend(route[1:], interpreter, env=serve.VirtualEnv(environments.get(OLD)))


# --- deploy -----------------------------------------------------------------------------------------------------


def test_deploy_into_environments(client: serve.Client, name: str, environments: Environments) -> None:
    """A deploy moves a backend to another environment; one that names none keeps the present one (DP3, DP4)."""
    old, new = environments.get(OLD), environments.get(NEW)
    client.deploy(name, versions, env=serve.VirtualEnv(old), config=UNWATCHED)
    handle = client.get_handle(name)
    assert handle.remote().result()[0] == "2.13.0"
    client.deploy(name, versions)
    assert handle.remote().result()[3] == str(old)
    client.deploy(name, versions, env=serve.VirtualEnv(new))
    assert handle.remote().result()[0] == "3.0.2"
    with pytest.raises(ValueError, match="does not exist"):
        client.deploy(name, versions, env=serve.VirtualEnv("/nowhere"))
    assert handle.remote().result()[3] == str(new)
    client.deploy(name, interpreter, env=serve.VirtualEnv(sys.prefix))
    assert handle.remote().result()[1] == sys.prefix
    client.delete_endpoint(name)
    client.delete_backend(name)


# --- folder, modules and variables ------------------------------------------------------------------------------


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder to work in with a module beside it, and a package whose neighbour must not be found."""
    for file, text in {
        "work/data.txt": "data",
        "work/in_folder.py": "VALUE = 'folder'",
        "lib/shipped_package/__init__.py": "from shipped_package.model import Model",
        "lib/shipped_package/model.py": SHIPPED,
        "lib/neighbour.py": "",
        "lone_module.py": "VALUE = 'lone'",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    return tmp_path


SHIPPED = """
import importlib.util
import os

import in_folder
import lone_module

AT_IMPORT = os.environ["FROM_OPTIONS"]


class Model:
    def __call__(self, request):
        with open("data.txt") as file:
            data = file.read()
        found = importlib.util.find_spec("neighbour") is not None
        return [data, in_folder.VALUE, lone_module.VALUE, AT_IMPORT, found, os.environ["OMP_NUM_THREADS"]]
"""


def test_working_dir_and_modules(client: serve.Client, name: str, environments: Environments, sources: Path) -> None:
    """Replicas work in the given folder and import the given packages, in any environment, and nothing that lies beside
    them; a deploy that does not name them keeps them (RM2, OM3, DP4)."""
    settings = {
        "env_vars": {"FROM_OPTIONS": "here", "OMP_NUM_THREADS": "7"},
        "working_dir": sources / "work",
        "py_modules": [sources / "lib" / "shipped_package", sources / "lone_module.py"],
    }
    code = serve.ImportedBackend("shipped_package:Model")
    wanted = ["data", "folder", "lone", "here", False, "7"]
    options = {"runtime_env": settings}
    env = serve.VirtualEnv(environments.get(OLD))
    client.deploy(name, code, env=env, ray_actor_options=options, config=UNWATCHED)
    handle = client.get_handle(name)
    assert handle.remote().result() == wanted
    client.deploy(name, code)
    assert handle.remote().result() == wanted
    client.deploy(name, code, env=serve.VirtualEnv(sys.prefix))
    assert handle.remote().result() == wanted
    client.delete_endpoint(name)
    client.delete_backend(name)


def test_modules_of_the_callers_environment(http: httpx.Client, served: Served, sources: Path) -> None:
    """Without env the same holds, as options of their own (RM2, DM3)."""
    options = {
        "env_vars": {"FROM_OPTIONS": "here"},
        "working_dir": str(sources / "work"),
        "py_modules": [str(sources / "lib" / "shipped_package"), str(sources / "lone_module.py")],
    }
    route = served(serve.ImportedBackend("shipped_package.model.Model"), ray_actor_options=options)
    assert http.get(route).json()[:5] == ["data", "folder", "lone", "here", False]


STRANGE = """
import functools
import threading

LOCK = threading.Lock()


@functools.cache
def square(number):
    return number * number


class Refused(Exception):
    pass


def model(request):
    if request.body() < 0:
        raise Refused("negative")
    return square(request.body())


def locked(request):
    with LOCK:
        return "never"
"""


@pytest.mark.same_on_ray
def test_modules_that_replicas_do_not_find(client: serve.Client, served: Served, name: str, tmp_path: Path) -> None:
    """Code that was loaded from a path, and is on no import path, serves by value, and its exceptions are the script's;
    what keeps it from travelling is named before anything starts (CB12)."""
    file = tmp_path / "my model.py"
    file.write_text(STRANGE)
    spec = importlib.util.spec_from_file_location("my_model", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["my_model"] = module
    try:
        spec.loader.exec_module(module)
        with pytest.raises(TypeError, match="variable 'LOCK' used by locked"):
            client.create_backend(name, module.locked)
        served(module.model)
        handle = client.get_handle(name)
        assert handle.remote(7).result() == 49
        with pytest.raises(module.Refused, match="negative"):
            handle.remote(-1).result()
    finally:
        del sys.modules["my_model"]
