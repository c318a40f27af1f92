"""Backends in conda environments: laid out by the test as conda does, and by a real conda where there is one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

import pointsman as serve
from tests.elsewhere import interpreter, variables
from tests.environments import Environments

SEMVER = "semver==2.13.0"


@pytest.fixture(scope="module")
def root(environments: Environments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation with the environments ``tf1``, which scripts set up, and ``other``, which has its own."""
    root = tmp_path_factory.mktemp("conda")
    for name in ("tf1", "other"):
        prefix = environments.conda(root, name, SEMVER)
        for kind in ("activate", "deactivate"):
            (prefix / "etc" / "conda" / f"{kind}.d").mkdir(parents=True)
    scripts = root / "envs" / "tf1" / "etc" / "conda"
    (scripts / "activate.d" / "a.sh").write_text(
        'echo noise\nexport FROM_SCRIPT="$CONDA_PREFIX $MINE"\nexport PATH="/extra:$PATH"\nunset DRIVERS_OWN\n'
    )
    (scripts / "activate.d" / "b.sh").write_text('[ -n "$FROM_SCRIPT" ] && export LATER="line 1\nline 2"\n')
    (root / "envs" / "tf1" / "conda-meta" / "state").write_text('{"env_vars": {"MINE": "stored"}}')
    scripts = root / "envs" / "other" / "etc" / "conda"
    (scripts / "deactivate.d" / "a.sh").write_text("unset OF_OTHER\n")
    (root / "envs" / "broken").mkdir()
    shutil.copytree(root / "envs" / "other", root / "envs" / "broken", symlinks=True, dirs_exist_ok=True)
    (root / "envs" / "broken" / "etc" / "conda" / "activate.d" / "a.sh").write_text("echo it is broken >&2\nexit 3\n")
    return root


@pytest.fixture
def inactive(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """This process knows of the installation, and no environment is active."""
    for name in ("CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_ENVS_DIRS", "CONDARC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CONDA_EXE", str(root / "bin" / "conda"))
    return monkeypatch


def test_conda_environment(
    http: httpx.Client, served: Callable[..., str], root: Path, inactive: pytest.MonkeyPatch
) -> None:
    """A backend runs in the conda environment of a name, set up as a shell has it after conda activate (DM2, DM5)."""
    inactive.setenv("DRIVERS_OWN", "1")
    inactive.setenv("VIRTUAL_ENV", "/mine")
    prefix = root / "envs" / "tf1"
    found = http.get(served(variables, env="tf1")).json()
    assert found["CONDA_PREFIX"] == str(prefix)
    assert found["CONDA_DEFAULT_ENV"] == "tf1"
    assert found["MINE"] == "stored"
    assert found["FROM_SCRIPT"] == f"{prefix} stored"
    assert found["LATER"] == "line 1\nline 2"
    assert found["PATH"].startswith(f"/extra:{prefix}/bin:")
    assert not {"DRIVERS_OWN", "VIRTUAL_ENV", "PYTHONHOME"} & set(found)


@pytest.mark.parametrize("kind", ["object", "path"])
def test_its_interpreter(
    http: httpx.Client, served: Callable[..., str], root: Path, inactive: pytest.MonkeyPatch, kind: str
) -> None:
    """CondaEnv names the same, and a conda environment that is given by its folder is one too (DM2, DM5)."""
    prefix = root / "envs" / "other"
    env = serve.CondaEnv("other") if kind == "object" else serve.VirtualEnv(prefix)
    assert http.get(served(interpreter, env=env)).json()[:2] == [str(prefix / "bin" / "python"), str(prefix)]


def test_from_an_active_environment(
    http: httpx.Client, served: Callable[..., str], root: Path, inactive: pytest.MonkeyPatch
) -> None:
    """A caller inside one environment gets another one, which what the first had set does not reach (DM7)."""
    inactive.delenv("CONDA_EXE")
    inactive.setenv("CONDA_PREFIX", str(root / "envs" / "other"))
    inactive.setenv("CONDA_DEFAULT_ENV", "other")
    inactive.setenv("OF_OTHER", "1")
    found = http.get(served(variables, env="tf1")).json()
    assert found["CONDA_PREFIX"] == str(root / "envs" / "tf1")
    assert "OF_OTHER" not in found


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("tf2", ValueError, "conda environment 'tf2' does not exist; did you mean 'tf1'?"),
        ("base", ValueError, "conda environment 'base' has no interpreter"),
        ("broken", ValueError, "activating conda environment 'broken' failed.*a.sh: it is broken"),
    ],
)
def test_environments_that_will_not_do(
    client: serve.Client, inactive: pytest.MonkeyPatch, name: str, error: type[Exception], text: str
) -> None:
    """A name that is not there and an environment that cannot be entered are refused, nothing is registered (DM6)."""
    with pytest.raises(error, match=text):
        client.create_backend(f"conda-{name}", interpreter, env=name)
    assert f"conda-{name}" not in client.list_backends()


def test_real_conda(http: httpx.Client, served: Callable[..., str]) -> None:
    """Where conda is installed, a backend runs in its base environment (DM7)."""
    conda = shutil.which("conda")
    if conda is None:
        pytest.skip("no conda is on the PATH")
    base = subprocess.check_output([conda, "info", "--base"], text=True, timeout=60).strip()
    missing = "import cloudpickle, msgspec, starlette"
    if subprocess.run([f"{base}/bin/python", "-c", missing], capture_output=True, timeout=60).returncode:
        pytest.skip(f"conda's base environment {base} lacks cloudpickle, msgspec or starlette")
    assert http.get(served(interpreter, env="base")).json()[1] == base
