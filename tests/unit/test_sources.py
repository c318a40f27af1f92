"""Where code comes from, in words: import path, arguments, content of local modules, git commit."""

from __future__ import annotations

import importlib
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import pytest

import pointsman as serve
from pointsman.client import sources
from pointsman.client.packing import prepare
from pointsman.client.sources import args_as_json, commit_of, env_as_json, import_path
from pointsman.environments.rehearsal import try_import
from pointsman.environments.resolve import caller
from pointsman.model import Origin, Resources, Source
from pointsman.usercode.content import content_digest, content_of, drop_old_bytecode, loaded_files
from pointsman.usercode.packing import pack_code

HERE = str(Path(__file__).parent)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], ModuleType]:
    """A folder of the user's with a model and what it imports; the function imports them."""
    (tmp_path / "own_model.py").write_text(
        "import own_package.part\n\n\nclass Model:\n    def __call__(self, request):\n        return 1\n"
    )
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").write_text("")
    (tmp_path / "own_package" / "part.py").write_text("PART = 1\n")
    (tmp_path / "own_unused.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))

    def load() -> ModuleType:
        importlib.invalidate_caches()
        for name in ("own_model", "own_package", "own_package.part"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module("own_model")

    return load


def test_code_has_its_path_in_words() -> None:
    """What replicas import has an import path; what is sent by value has none (CF9)."""

    def inner(request: Any) -> None: ...

    assert import_path(serve.ImportedBackend("a.b.C")) == import_path(serve.ImportedBackend("a.b:C")) == "a.b:C"
    assert import_path(serve.asgi("shop:app")) == "shop:app"
    assert import_path(commit_of) == "pointsman.client.sources:commit_of"
    assert import_path(serve.ImportedBackend) == "pointsman.backends:ImportedBackend"
    assert import_path(inner) == ""


def test_asking_for_the_path_registers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """How cloudpickle treats a module that is on no import path is up to the user again afterwards (CF9)."""
    module = ModuleType("on_no_path")
    monkeypatch.setitem(sys.modules, "on_no_path", module)
    exec("def model(request): ...", vars(module))
    before = set(cloudpickle.list_registry_pickle_by_value())
    assert import_path(module.model) == ""
    assert set(cloudpickle.list_registry_pickle_by_value()) == before


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), b"[]"),
        (
            ("weights-1.bin", 3, 0.5, None, True, {"a": [1, {"b": "ü"}]}),
            b'["weights-1.bin", 3, 0.5, null, true, ',
        ),
        (((1, 2),), None),
        (({1: "a"},), None),
        ((b"bytes",), None),
        ((float("nan"),), None),
        ((object(),), None),
        (("x" * 20_000,), None),
    ],
)
def test_arguments_are_kept_in_words_where_json_has_them(args: tuple[Any, ...], text: bytes | None) -> None:
    """Init args that JSON would turn into others, or that are large, are not kept in words (CF9)."""
    found = args_as_json(args)
    assert found is text or (found is not None and text is not None and found.startswith(text))


def test_environments_are_written_as_a_file_has_them() -> None:
    """An environment is described as a configuration file would name it (CF9)."""
    assert env_as_json(None) == b"null"
    assert env_as_json(serve.CondaEnv("tf1")) == b'{"conda": "tf1"}'
    assert env_as_json(serve.VirtualEnv("/env")) == b'{"virtualenv": "/env"}'
    assert env_as_json(serve.Requirements(["b==1", "a"])) == b'{"requirements": ["a", "b==1"]}'


# --- content ----------------------------------------------------------------------------------------------------


def test_the_content_is_that_of_the_users_own_modules(project: Callable[[], ModuleType], tmp_path: Path) -> None:
    """Modules of the user's folders count; those of packages, of Python and of Pointsman do not (CF9)."""
    project()
    files = loaded_files([str(tmp_path)])
    assert set(files) == {"own_model", "own_package", "own_package.part"}
    everything = loaded_files(["/"])
    assert not {"os", "json", "msgspec", "pointsman", "pointsman.model", "__main__"} & set(everything)
    assert set(files) < set(everything)
    assert loaded_files([str(tmp_path / "elsewhere")]) == {}


def test_a_changed_module_is_other_content(project: Callable[[], ModuleType], tmp_path: Path) -> None:
    """An edit of any module that the code imports is seen; moving the folder is none (CF9)."""
    project()
    files = loaded_files([str(tmp_path)])
    before = content_digest(files)
    assert content_digest(files) == before != ""
    (tmp_path / "own_package" / "part.py").write_text("PART = 2\n")
    changed = content_digest(files)
    assert changed != before
    moved = shutil.copytree(tmp_path, tmp_path / "moved")
    assert content_digest({name: path.replace(str(tmp_path), str(moved)) for name, path in files.items()}) == changed
    (tmp_path / "own_package" / "part.py").unlink()
    assert content_digest(files) not in (before, changed)
    assert content_digest({}) == ""


def test_a_file_saved_twice_in_a_second_is_compiled_anew(tmp_path: Path) -> None:
    """What I save in the second of the save before, with as many characters, is what replicas run (CF9)."""
    file = tmp_path / "settings.py"
    file.write_text("VALUE = 1")
    compiled = Path(py_compile.compile(str(file)) or "")
    os.utime(file, (1000.2, 1000.2))
    os.utime(compiled, (1001.0, 1001.0))
    drop_old_bytecode({"settings": str(file), "gone": str(tmp_path / "gone.py"), "fast": "fast.so"})
    assert compiled.exists()
    os.utime(compiled, (1000.9, 1000.9))
    drop_old_bytecode({"settings": str(file)})
    assert not compiled.exists()


def test_the_content_of_code_that_this_process_has(project: Callable[[], ModuleType], tmp_path: Path) -> None:
    """Code that refers to a module of the user's has its content; code that refers to none has none (CF9)."""
    model = project().Model
    before = content_of(pack_code(model, ()), [])
    assert before
    (tmp_path / "own_package" / "part.py").write_text("PART = 3\n")
    assert content_of(pack_code(model, ()), []) != before
    assert content_of(pack_code(serve.ImportedBackend("json:dumps"), (1,)), []) == ""


def test_what_is_imported_later_counts(project: Callable[[], ModuleType], tmp_path: Path) -> None:
    """A module that a constructor will import is the user's code, too, however it is written there; so is the module of
    an app that only replicas import (CF9)."""
    (tmp_path / "own_package" / "late.py").write_text("from .deep import (\n    one as two,\n    three,\n)\n")
    (tmp_path / "own_package" / "deep").mkdir()
    (tmp_path / "own_package" / "deep" / "__init__.py").write_text("from .. import unused as _\n")
    (tmp_path / "own_package" / "deep" / "three.py").write_text("import own_last, json\n")
    (tmp_path / "own_last.py").write_text("LAST = 1\n")
    with (tmp_path / "own_model.py").open("a") as file:
        file.write("\n    def load(self):\n        from own_package import late\n")
    model = project().Model
    app = pack_code(serve.asgi("own_model:app"), ())
    before = content_of(pack_code(model, ()), [], "own_model:Model"), content_of(app, [], "own_model:app")
    (tmp_path / "own_last.py").write_text("LAST = 2\n")
    after = content_of(pack_code(model, ()), [], "own_model:Model"), content_of(app, [], "own_model:app")
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_a_trial_import_reports_what_it_loads(project: Callable[[], ModuleType], tmp_path: Path) -> None:
    """The content of code by its import path is that of what its import loads, and of nothing else (CF9)."""
    packed = pack_code(serve.ImportedBackend("own_model:Model"), ())
    origin = Origin(str(tmp_path), (str(tmp_path),))

    def content() -> str:
        found = try_import("Model", packed, origin, caller())
        assert (found.traits.is_class, found.folder) == (True, str(tmp_path))
        return found.content

    before = content()
    (tmp_path / "own_unused.py").write_text("CHANGED = True\n")
    assert content() == before != ""
    (tmp_path / "own_package" / "part.py").write_text("PART = 2\n")
    assert content() != before


def test_a_package_is_ready_with_its_source(project: Callable[[], ModuleType], tmp_path: Path) -> None:
    """What is prepared says all that tells code apart, for a folder of one's own choice (CF9)."""
    here = Origin(str(tmp_path), (str(tmp_path),))
    package = prepare(serve.ImportedBackend("own_model:Model"), (1,), None, Resources(), None, version="2", here=here)
    again = prepare(serve.ImportedBackend("own_model:Model"), (1,), None, Resources(), None, version="2", here=here)
    assert package == again
    assert package.source == Source("own_model:Model", "Model", b"[1]", b"null", package.source.content, "2", "")
    assert package.source.content
    assert (package.origin.cwd, package.origin.sys_path) == (str(tmp_path), (str(tmp_path),))


# --- git --------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "anna")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "anna@example.org")
    path = tmp_path / "repository"
    path.mkdir()
    git(path, "init", "-q")
    return path


def git(path: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", path, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_code_has_its_commit(repository: Path) -> None:
    """Code in a repository has its commit, with a plus once anything there is changed or new (CF9)."""
    assert commit_of(str(repository)) == ""  # there is no commit yet
    (repository / "models").mkdir()
    (repository / "models" / "model.py").write_text("1\n")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "first")
    commit = git(repository, "rev-parse", "HEAD")
    for folder in (repository, repository / "models"):
        assert commit_of(str(folder)) == commit
    (repository / "models" / "model.py").write_text("2\n")
    assert commit_of(str(repository)) == f"{commit}+"
    git(repository, "checkout", "-q", ".")
    (repository / "new.py").write_text("\n")
    assert commit_of(str(repository / "models")) == f"{commit}+"


def test_no_program_of_a_repository_runs(repository: Path) -> None:
    """A look at the commit runs no hook and no monitor that the repository names (S4)."""
    (repository / "model.py").write_text("1\n")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "first")
    trap = repository / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {repository}/sprung\n")
    trap.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(trap))
    git(repository, "config", "core.hooksPath", str(repository))
    shutil.copy(trap, repository / "post-index-change")
    os.utime(repository / "model.py")
    assert commit_of(str(repository)).endswith("+")
    assert not (repository / "sprung").exists()


def test_code_without_a_commit(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No repository, no git, or a repository of another user: there is no commit, and the deploy goes on (CF9)."""
    assert commit_of(str(tmp_path)) == ""
    assert commit_of(str(tmp_path / "gone")) == ""
    git(repository, "commit", "-q", "--allow-empty", "-m", "first")
    assert commit_of(str(repository))
    with monkeypatch.context() as patch:
        patch.setattr(sources.os, "getuid", lambda: 12345)
        assert commit_of(str(repository)) == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(str(repository)) == ""
