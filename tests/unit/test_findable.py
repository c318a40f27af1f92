"""usercode.findable: which modules a fresh interpreter finds by their names, which a real one confirms."""

from __future__ import annotations

import importlib.util
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pointsman
from pointsman.usercode.findable import is_findable


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Modules and path are as they were when a test is over."""
    modules, path = dict(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.modules.update(modules)
    sys.path[:] = path


def load(name: str, file: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_all_that_is_installed_is_found() -> None:
    """Of some hundred modules of the standard library and of packages, made in Python and in C, with second names and
    submodules that no file holds, each goes by its name (CB12)."""
    import collections.abc  # noqa: F401
    import email.mime.text
    import multiprocessing.pool
    import os.path  # noqa: F401 - a second name
    import xml.dom.minidom  # noqa: F401

    import numpy.random
    import psutil
    import pydantic  # noqa: F401

    tops = {
        "collections",
        "email",
        "multiprocessing",
        "os",
        "xml",
        "numpy",
        "psutil",
        "pydantic",
        "pydantic_core",
        "pointsman",
    }
    asked = [name for name in list(sys.modules) if name.split(".")[0] in tops]
    assert len(asked) > 200
    assert [name for name in asked if not is_findable(name)] == []
    assert [email.mime.text, multiprocessing.pool, numpy.random, psutil]


def test_what_the_path_holds_is_found(tmp_path: Path) -> None:
    """Modules beside the script, packages without an ``__init__`` and modules in a zip file go by their names."""
    (tmp_path / "beside.py").write_text("")
    (tmp_path / "folders" / "inner").mkdir(parents=True)
    (tmp_path / "folders" / "inner" / "deep.py").write_text("")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as packed:
        packed.writestr("zipped.py", "")
    sys.path[:0] = [str(tmp_path), str(tmp_path / "packed.zip")]
    for name in ("beside", "folders.inner.deep", "zipped"):
        importlib.import_module(name)
        assert is_findable(name)
    sys.path.remove(str(tmp_path))
    assert not is_findable("beside")
    assert not is_findable("folders.inner.deep")
    assert is_findable("beside", [str(tmp_path)])
    assert is_findable("folders.inner.deep", [str(tmp_path)])


def test_what_only_this_process_has_is_not_found(tmp_path: Path) -> None:
    """The script, a module made in code, one loaded from a path, below a package or in the place of another, and one
    that only a finder of the program's own knows are not found (CB12)."""
    file = tmp_path / "other.py"
    file.write_text("def function(): ...")
    (tmp_path / "made").mkdir()
    sys.path.insert(0, str(tmp_path))  # where there is a folder "made"
    sys.modules["made"] = types.ModuleType("made")
    for name in ("strange name", "colorsys", "pointsman.below", "email.charset"):
        load(name, file)

    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> object:
            return importlib.util.spec_from_file_location(name, file) if name == "hooked" else None

    sys.meta_path.append(Finder)
    try:
        importlib.import_module("hooked")
        names = ("__main__", "__mp_main__", "made", "strange name", "colorsys", "pointsman.below", "email.charset")
        assert [name for name in (*names, "hooked", "never.was") if is_findable(name)] == []
    finally:
        sys.meta_path.remove(Finder)
    assert is_findable("other")
    assert is_findable("pointsman")


def test_a_copy_that_comes_first_by_now_does_not_count(tmp_path: Path) -> None:
    """A package that another one has put its own copy before, as some do, still goes by its name."""
    import psutil

    (tmp_path / "psutil.py").write_text("")
    sys.path.insert(0, str(tmp_path))
    assert is_findable("psutil")
    assert is_findable(psutil._common.__name__)


def test_modules_that_packages_make(tmp_path: Path) -> None:
    """A module without a file that a package makes as it is imported is found with it; one that somebody else has put
    there is not (CB12)."""
    module = types.ModuleType("pointsman.made")
    sys.modules["pointsman.made"] = module
    source = "def function(): ..."
    exec(compile(source, str(Path(pointsman.__file__).with_name("made.py")), "exec"), vars(module))
    assert is_findable("pointsman.made")
    other = sys.modules["pointsman.other"] = types.ModuleType("pointsman.other")
    exec(compile(source, str(tmp_path / "script.py"), "exec"), vars(other))
    assert not is_findable("pointsman.other")
