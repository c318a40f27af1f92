"""actor_options: the folder, modules and variables that ``ray_actor_options`` may give to replicas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pointsman.actor_options import KNOWN, parse_actor_options


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """A package and a module."""
    (tmp_path / "package").mkdir()
    (tmp_path / "module.py").write_text("")
    return tmp_path


def test_settings_by_either_way(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folder, modules and variables may be options of their own or stand in runtime_env, as Ray has it (RM2)."""
    monkeypatch.chdir(modules)
    settings = {"env_vars": {"A": "b"}, "working_dir": "package", "py_modules": ["package", modules / "module.py"]}
    plain = parse_actor_options(settings)
    assert plain.working_dir == str(modules / "package")
    assert plain.py_modules == (str(modules / "package"), str(modules / "module.py"))
    assert parse_actor_options({"runtime_env": settings}) == plain
    assert parse_actor_options({"env_vars": {"A": "b"}, "runtime_env": {"working_dir": "package"}}).env_vars == {
        "A": "b"
    }


def test_variables_by_their_old_name() -> None:
    """A script of 1.x that sets ``override_environment_variables`` sets ``env_vars`` (RM2)."""
    assert parse_actor_options({"override_environment_variables": {"A": "b"}}).env_vars == {"A": "b"}
    for other in ({"env_vars": {"A": "b"}}, {"runtime_env": {"env_vars": {"A": "b"}}}):
        with pytest.raises(ValueError, match="env_vars"):
            parse_actor_options({"override_environment_variables": {"A": "b"}, **other})
    with pytest.raises(TypeError, match="env_vars must map str to str"):
        parse_actor_options({"override_environment_variables": {"A": 1}})


@pytest.mark.parametrize("name", KNOWN)
def test_none_is_no_value(name: str) -> None:
    """None in place of an amount, a dict or a folder is refused by the option's name, as 1.x did (RM2)."""
    with pytest.raises(TypeError, match=f"^{name} of ray_actor_options is None"):
        parse_actor_options({name: None})
    if name in ("env_vars", "working_dir", "py_modules"):
        with pytest.raises(TypeError, match=f"^{name} of runtime_env is None"):
            parse_actor_options({"runtime_env": {name: None}})


def test_modules_that_are_imported_here() -> None:
    """A module object stands for where it came from, a package for its folder."""
    import email
    import json.decoder

    options = parse_actor_options({"py_modules": [email, json.decoder]})
    assert options.py_modules == (str(Path(email.__file__).parent), json.decoder.__file__)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"working_dir": 3}, TypeError, "working_dir must be a path"),
        ({"working_dir": "/nowhere"}, ValueError, "working_dir '/nowhere' is not a folder"),
        ({"working_dir": "s3://bucket/a.zip"}, ValueError, "Pointsman fetches nothing"),
        ({"py_modules": "package"}, TypeError, "must be a list"),
        ({"py_modules": [3]}, TypeError, "must be a path"),
        ({"py_modules": ["/nowhere"]}, ValueError, "'/nowhere' of py_modules is neither"),
        ({"py_modules": ["a/package", "b/package"]}, ValueError, "two modules of one name"),
        ({"runtime_env": 3}, TypeError, "runtime_env must be a dict"),
        ({"runtime_env": {"pip": ["numpy"]}}, ValueError, r"cannot set 'pip'.*env="),
        ({"runtime_env": {"conda": "tf1"}}, ValueError, r"cannot set 'conda'.*env="),
        ({"runtime_env": {"workingdir": "."}}, ValueError, "did you mean 'working_dir'"),
        ({"working_dir": "/", "runtime_env": {"working_dir": "/"}}, ValueError, "given twice"),
    ],
)
def test_settings_that_will_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, error: type[Exception], text: str
) -> None:
    """What is no folder or module of this machine is refused with what it should be (RM2, S11)."""
    for name in ("a", "b"):
        (tmp_path / name / "package").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=text):
        parse_actor_options(options)


@pytest.mark.parametrize("name", ["working_dir", "py_modules"])
def test_code_that_everyone_may_change(modules: Path, name: str) -> None:
    """A folder of code that anyone on the machine may write to is refused (S11)."""
    package = modules / "package"
    package.chmod(0o777)
    with pytest.raises(ValueError, match=f"everyone may write to {package}"):
        parse_actor_options({name: str(package) if name == "working_dir" else [package]})
