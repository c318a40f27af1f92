"""conda: environments are found by name as conda finds them, on made-up file systems."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pointsman.environments import conda
from pointsman.environments.conda import Surroundings, find_prefix, installations, stored_variables
from pointsman.exceptions import ServeException


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed on this machine is not looked at."""
    monkeypatch.setattr(conda, "USUAL_PLACES", ())


def environment(prefix: Path) -> Path:
    (prefix / "conda-meta").mkdir(parents=True)
    return prefix


def around(home: Path, *, prefix: Path = Path("/usr"), **variables: object) -> Surroundings:
    return Surroundings({name: str(value) for name, value in variables.items()}, prefix, home)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An installation with one environment, at a place where nobody would look."""
    root = environment(tmp_path / "odd" / "conda")
    environment(root / "envs" / "tf1")
    return root


def test_from_any_starting_point(root: Path, home: Path, tmp_path: Path) -> None:
    """The installation is found with and without an active environment, from base, and from a Python that was started
    by its path (DM7)."""
    other = environment(root / "envs" / "other")
    exe = root / "bin" / "conda"
    exe.parent.mkdir()
    exe.write_text("#!/bin/sh\n")
    exe.chmod(0o755)
    starts = [
        around(home, CONDA_EXE=exe),
        around(home, CONDA_PREFIX=root, CONDA_DEFAULT_ENV="base"),
        around(home, CONDA_PREFIX=other, CONDA_DEFAULT_ENV="other"),
        around(home, CONDA_PREFIX=tmp_path / "stacked", CONDA_PREFIX_1=root),
        around(home, MAMBA_ROOT_PREFIX=root, MAMBA_EXE="/usr/bin/micromamba"),
        around(home, PATH=f"/nowhere:{exe.parent}"),
        around(home, prefix=other),
        around(home, prefix=root),
    ]
    for start in starts:
        assert find_prefix("tf1", start) == root / "envs" / "tf1", start
        assert find_prefix("base", start) == root, start


def test_beside_the_active_one(tmp_path: Path, home: Path) -> None:
    """Without conda itself, an environment beside the active one is found, or below the base, as 1.x found it; what
    has an interpreter is one, whoever made it (DM7)."""
    environment(tmp_path / "x" / "envs" / "b")
    for made in ("x/envs/c", "other/d", "base/envs/e"):
        (tmp_path / made / "bin").mkdir(parents=True)
        (tmp_path / made / "bin" / "python").touch()
    (tmp_path / "other" / "notes").mkdir()
    inside = around(home, CONDA_PREFIX=tmp_path / "x" / "envs" / "a", CONDA_DEFAULT_ENV="a")
    assert find_prefix("b", inside) == tmp_path / "x" / "envs" / "b"
    assert find_prefix("c", inside) == tmp_path / "x" / "envs" / "c"
    elsewhere = around(home, CONDA_PREFIX=tmp_path / "other" / "a", CONDA_DEFAULT_ENV="a")
    assert find_prefix("d", elsewhere) == tmp_path / "other" / "d"
    with pytest.raises(ValueError, match="'notes' does not exist"):
        find_prefix("notes", elsewhere)
    base = around(home, CONDA_PREFIX=tmp_path / "base", CONDA_DEFAULT_ENV="base")
    assert find_prefix("e", base) == tmp_path / "base" / "envs" / "e"


def test_usual_homes(home: Path) -> None:
    """conda that is in its usual folder is found without any variable, micromamba too, which has no base (DM7)."""
    environment(home / "miniforge3" / "envs" / "a")
    environment(home / "micromamba" / "envs" / "b")
    assert find_prefix("a", around(home)) == home / "miniforge3" / "envs" / "a"
    assert find_prefix("b", around(home)) == home / "micromamba" / "envs" / "b"


def test_active_installation_comes_first(root: Path, home: Path) -> None:
    """Of two installations with an environment of that name the active one's is meant (DM7)."""
    environment(home / "miniconda3")
    environment(home / "miniconda3" / "envs" / "tf1")
    assert find_prefix("tf1", around(home, CONDA_PREFIX=root)) == root / "envs" / "tf1"
    assert installations(around(home, CONDA_PREFIX=root)) == [root, home / "miniconda3"]
    assert find_prefix("tf1", around(home)) == home / "miniconda3" / "envs" / "tf1"


@pytest.mark.parametrize(
    "text",
    [
        "envs_dirs:\n  - {0}\n  - /other\n",
        "channels:\n  - x\nenvs_dirs:   # mine\n- '{0}'  # here\nauto: true\n",
        'envs_dirs: ["{0}", /other]\n',
        "envs_path: [{0}]",
        "envs_dirs:\n\n  # none\n  - $ODD_PLACE/e\n",
    ],
)
@pytest.mark.parametrize("place", [".condarc", ".conda/.condarc", ".config/conda/.condarc", ".mambarc"])
def test_folders_of_settings(
    root: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, place: str
) -> None:
    """Folders of environments that a settings file names are looked into, in any way to write the list (DM7)."""
    monkeypatch.setenv("ODD_PLACE", str(tmp_path))
    mine = environment(tmp_path / "e" / "mine")
    (home / place).parent.mkdir(parents=True, exist_ok=True)
    (home / place).write_text(text.format(tmp_path / "e"))
    assert find_prefix("mine", around(home, CONDA_PREFIX=root)) == mine


def test_folders_of_variables_and_installation(root: Path, home: Path, tmp_path: Path) -> None:
    """CONDA_ENVS_DIRS, CONDARC and the installation's own settings count, the variable first (DM7)."""
    by_variable, by_file = environment(tmp_path / "v" / "e"), environment(tmp_path / "f" / "e")
    (root / ".condarc").write_text(f"envs_dirs:\n  - {tmp_path / 'f'}\n")
    assert find_prefix("e", around(home, CONDA_PREFIX=root)) == by_file
    dirs = f"/none:{tmp_path / 'v'}"
    assert find_prefix("e", around(home, CONDA_PREFIX=root, CONDA_ENVS_DIRS=dirs)) == by_variable
    (tmp_path / "rc").write_text(f"envs_dirs: [{tmp_path / 'v'}]")
    assert find_prefix("e", around(home, CONDA_PREFIX=root, CONDARC=tmp_path / "rc")) == by_variable


def test_listed_environments(root: Path, home: Path, tmp_path: Path) -> None:
    """An environment that was made at a path is found by its last part, unless there are two of them (DM7)."""
    one = environment(tmp_path / "one" / "work")
    listed = home / ".conda" / "environments.txt"
    listed.parent.mkdir()
    listed.write_text(f"{root}\n{one}\n{tmp_path}/gone/work\n")
    assert find_prefix("work", around(home)) == one
    two = environment(tmp_path / "two" / "work")
    listed.write_text(f"{one}\n{two}\n")
    with pytest.raises(ValueError, match=f"more than once: {one}, {two}.*VirtualEnv"):
        find_prefix("work", around(home))


def test_missing_name(root: Path, home: Path) -> None:
    """A name that is not there is refused with the one that was probably meant (DM6)."""
    with pytest.raises(ValueError, match="conda environment 'tf' does not exist; did you mean 'tf1'"):
        find_prefix("tf", around(home, CONDA_PREFIX=root))
    with pytest.raises(ValueError, match="'xyz' does not exist; it has base, tf1"):
        find_prefix("xyz", around(home, CONDA_PREFIX=root))


def test_folder_that_is_no_environment(root: Path, home: Path) -> None:
    """A folder that merely lies among environments is none (DM6)."""
    (root / "envs" / "notes").mkdir()
    with pytest.raises(ValueError, match="'notes' does not exist"):
        find_prefix("notes", around(home, CONDA_PREFIX=root))


def test_no_conda_at_all(home: Path) -> None:
    """Without any conda the error says so, and where to name one (DM7)."""
    for name in ("tf1", "base"):
        with pytest.raises(ServeException, match=r"no conda installation.*CONDA_EXE.*VirtualEnv"):
            find_prefix(name, around(home, CONDA_EXE="/gone/bin/conda", PATH="/nowhere"))


def test_stored_variables(tmp_path: Path) -> None:
    """Variables set by `conda env config vars` and by packages are those of the environment (DM5)."""
    prefix = environment(tmp_path)
    (prefix / "etc" / "conda" / "env_vars.d").mkdir(parents=True)
    (prefix / "etc" / "conda" / "env_vars.d" / "gdal.json").write_text(json.dumps({"GDAL": "1", "BOTH": "package"}))
    state = {"version": 1, "env_vars": {"MINE": "x y", "BOTH": "user", "OFF": "***unset***"}}
    (prefix / "conda-meta" / "state").write_text(json.dumps(state))
    assert stored_variables(prefix) == {"GDAL": "1", "MINE": "x y", "BOTH": "user"}
    (prefix / "conda-meta" / "state").write_text("{")
    with pytest.raises(ValueError, match="state of the conda environment cannot be read"):
        stored_variables(prefix)
