"""What TARGET of `pointsman run` names."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pointsman.cli.main import app
from pointsman.running.targets import Target, TargetError, find_object, is_config_file, parse_target


def module_of(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    path = folder / "model_under_test.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("model_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "model_under_test", module)
    spec.loader.exec_module(module)
    return module


def test_a_target_is_a_module_or_a_file(tmp_path: Path):
    """I name a class by its module, or by the file that it is in, in this folder or elsewhere (RN1)."""
    (tmp_path / "model.py").touch()
    package = tmp_path / "deep" / "pkg"
    package.mkdir(parents=True)
    for name in ("__init__.py", "part.py"):
        (package / name).touch()
    here, file = str(tmp_path), str(tmp_path / "model.py")
    assert parse_target("model:A", tmp_path) == Target("model", "A", here)
    assert parse_target("pkg.part:A.B", tmp_path) == Target("pkg.part", "A.B", here)
    assert parse_target("model.py", tmp_path) == Target("model", "", here, file)
    assert parse_target(f"{tmp_path}/model.py:A", Path("/")) == Target("model", "A", here, file)
    part = parse_target("deep/pkg/part.py", tmp_path)
    assert part == Target("pkg.part", "", str(tmp_path / "deep"), str(package / "part.py"))
    assert [is_config_file(f"shop.{kind}") for kind in ("yaml", "yml", "toml", "json", "py")] == [True] * 4 + [False]


@pytest.mark.parametrize(
    "text", ["", ":", "model", "model:", ":A", "a-b:C", "model:1", "no.py", "dash-ed.py", "no.py:A:B"]
)
def test_a_text_that_names_nothing_is_refused(text: str, tmp_path: Path):
    """A target that cannot name code is refused with one sentence before anything is imported (RN2)."""
    (tmp_path / "dash-ed.py").touch()
    with pytest.raises(TargetError) as caught:
        parse_target(text, tmp_path)
    assert "\n" not in str(caught.value)


CALLED = "    def __call__(self, request): ...\n"
IMPORTS = """
import dataclasses, enum
from collections import OrderedDict
from typing import NamedTuple, TypedDict
from pydantic import BaseModel
import msgspec
from os.path import join
"""


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"class Model:\n{CALLED}", "Model"),
        ("def model(request): ...", "model"),
        (f"class Model:\n{CALLED}\nModel2 = Model\ndef _helper(): ...\nlimit = 7", "Model"),
        ("class Model:\n    def predict(self, request): ...", "Model"),
        (
            IMPORTS
            + "class A(BaseModel): x: int\nclass B(msgspec.Struct): x: int\nclass C(TypedDict): x: int\n"
            + "class D(NamedTuple): x: int\nclass E(enum.Enum): x = 1\nclass F(Exception): ...\n"
            + "@dataclasses.dataclass\nclass G:\n    x: int\n    def m(self): ...\nclass H: x = 1\n"
            + f"class Model:\n{CALLED}",
            "Model",
        ),
        ("import functools\n@functools.lru_cache\ndef model(request): ...", "model"),
        ("from fastapi import FastAPI\napp = FastAPI()\n@app.get('/')\ndef root(): ...\ndef helper(): ...", "app"),
        ("async def app(scope, receive, send): ...", "app"),
        (
            "import pointsman as serve\nfrom fastapi import FastAPI\napp = FastAPI()\n"
            "@serve.asgi(app)\nclass Shop:\n    @app.get('/')\n    def root(self): ...",
            "Shop",
        ),
        ("import pointsman as serve\nasync def _app(scope, receive, send): ...\nshop = serve.asgi(_app)", "shop"),
    ],
)
def test_the_only_one_of_a_file(text: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """I name a file, and its one class, function or app is meant; data types, and what it imports, are none (RN2)."""
    module = module_of(text, tmp_path, monkeypatch)
    target = Target(module.__name__, "", str(tmp_path))
    assert find_object(module, target) == (name, getattr(module, name))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"class A:\n{CALLED}class B:\n{CALLED}def c(request): ...", ["A", "B", "c"]),
        (f"from fastapi import FastAPI\napp = FastAPI()\nclass A:\n{CALLED}", ["app", "A"]),
        ("x = 1\nclass A: ...\ndef _f(): ...\nfrom os.path import join", []),
        ("", []),
    ],
)
def test_several_or_none_are_refused(text: str, named: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file with several models, or with none, is refused, and all that I could mean are named (RN2)."""
    module = module_of(text, tmp_path, monkeypatch)
    with pytest.raises(TargetError) as caught:
        find_object(module, Target(module.__name__, "", str(tmp_path), "model.py"))
    assert all(f"model.py:{name}" in str(caught.value) for name in named)
    assert ("several" in str(caught.value)) == bool(named)


def test_a_name_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A name with a typing mistake is refused, with the nearest one (RN2)."""
    module = module_of(f"class Model:\n{CALLED}", tmp_path, monkeypatch)
    with pytest.raises(TargetError, match=r"has no 'Modle'; did you mean 'Model'\?"):
        find_object(module, Target(module.__name__, "Modle", str(tmp_path)))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing.py"], "nothing.py"),
        (["model:Person:x"], "is no target"),
        (["model"], "is no target; give module:Name"),
        (["model"], "a class or function Name of module 'model' is 'model:Name'"),
        (["models.ranking.Ranker"], "did you mean 'models.ranking:Ranker'?"),
        (["model:Greeter", "--arg", "x"], "is not JSON"),
        (["model:Greeter", "--set", "num_replica=2"], "did you mean 'num_replicas'"),
        (["model:Greeter", "--set", "num_replicas=-2"], "num_replicas"),
        (["model:Greeter", "--route", "m"], "route must be"),
        (["model:Greeter", "--reload", "--local"], "exclude each other"),
        (["model:Greeter", "--resource", "slots"], "is not NAME=AMOUNT"),
        (["model:Greeter", "--http-middleware", "nothing:Here"], "cannot be imported"),
    ],
)
def test_wrong_options_are_bad_usage(words: list[str], told: str):
    """A target that cannot be, and an option that cannot be, end with 2 and the reason before anything is started
    (RN2)."""
    done = CliRunner().invoke(app, ["run", *words], env={"COLUMNS": "200"})
    assert (done.exit_code, done.stdout) == (2, "")
    assert told in " ".join(done.stderr.split())


def test_reload_without_its_package(monkeypatch: pytest.MonkeyPatch):
    """Without watchfiles `--reload` says in one sentence what to install, and ends with 2 (RN3)."""
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    done = CliRunner().invoke(app, ["run", "model:Greeter", "--reload"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "pointsman: --reload needs the package watchfiles: pip install watchfiles\n"
