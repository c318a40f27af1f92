"""The code of a configuration file is loaded on trial: no more often than it must be, and all that fails at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pointsman.configfile import packing
from pointsman.configfile.applying import load_code
from pointsman.configfile.fields import BACKEND_DEFAULTS
from pointsman.configfile.packing import pack
from pointsman.configfile.plan import Packed
from pointsman.configfile.problems import CodeError
from pointsman.configfile.wanting import wanted_of
from pointsman.exceptions import ServeException
from pointsman.usercode.packing import unpack_code
from tests.unit.configuring import HEAD, config_of

MODELS = """\
import lib.helper

def model(request): ...

class Model:
    def __init__(self, *args): ...
    def __call__(self, request): ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a package, and the working folder elsewhere."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/helper.py").write_text("VALUE = 1\n")
    (tmp_path / "models.py").write_text(MODELS)
    monkeypatch.chdir("/")
    return tmp_path


def packed(folder: Path, backends: str, head: str = HEAD) -> dict[str, Packed]:
    config = config_of(folder, f"{head}backends:\n{backends}")
    wanted = wanted_of(config, None)
    found, check = pack(config, {tag: {**BACKEND_DEFAULTS, **fields} for tag, fields in wanted.backends.items()})
    check()
    return found


def test_a_module_is_loaded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred backends of one class load it once; other variables may make another of it (CF9)."""
    loaded = []
    real = packing.try_import
    monkeypatch.setattr(packing, "try_import", lambda path, *rest: loaded.append(path) or real(path, *rest))
    found = packed(
        folder,
        "".join(f"  b{n}: {{code: models:Model, args: [{n}]}}\n" for n in range(100))
        + "  f: {code: models:model}\n  g: {code: models:model, ray_actor_options: {env_vars: {A: b}}}\n",
    )
    assert sorted(loaded) == ["models:Model", "models:model", "models:model"]
    assert len({one.wanted.code for one in found.values()}) == 101
    assert found["b7"].wanted.source.args == b"[7]"
    assert found["b7"].wanted.traits.is_class
    assert not found["f"].wanted.traits.is_class
    monkeypatch.syspath_prepend(str(folder))
    code, args = unpack_code(found["b7"].blob)
    assert (code.__name__, args) == ("Model", (7,))


def test_the_folder_of_the_file_is_where_code_is(folder: Path) -> None:
    """Modules are found in the file's folder, which replicas work in, then in ``python_path`` (CF1, CF9)."""
    (folder / "more").mkdir()
    (folder / "more/models.py").write_text("raise RuntimeError")
    (folder / "more/extra.py").write_text("def extra(request): ...\n")
    found = packed(folder, "  a: {code: extra:extra}\n  b: {code: models:model}\n", HEAD + "python_path: [more]\n")
    origin = found["a"].wanted.origin
    assert (origin.cwd, origin.sys_path[:2]) == (str(folder), (str(folder), str(folder / "more")))


def test_the_content_is_what_the_import_loads(folder: Path) -> None:
    """An edit of a module that the code imports is new content; one that it does not import, or another place, is none
    (CF9)."""

    def content(at: Path) -> str:
        return packed(at, "  a: {code: models:model}\n")["a"].wanted.source.content

    first = content(folder)
    (folder / "unused.py").write_text("")
    moved = folder / "moved"
    moved.mkdir()
    for name in ("models.py", "lib"):
        (folder / name).rename(moved / name)
    assert content(moved) == first
    (moved / "lib/helper.py").write_text("VALUE = 2\n")
    assert content(moved) != first


def test_all_that_cannot_be_loaded_is_said_at_once(folder: Path) -> None:
    """Code that is not there, raises or takes no arguments, and an environment that is not there, with their places;
    what the user's code raised has its traceback (CF4)."""
    (folder / "broken.py").write_text("raise LookupError('no weights')\n")
    backends = (
        "  a: {code: nowhere:Model}\n"
        "  b: {code: broken:Model}\n"
        "  c: {code: models:Missing}\n"
        "  d: {code: models:model, args: [1]}\n"
        "  e: {code: models:Model, env: {virtualenv: none}}\n"
        "  f: {code: models:Model}\n"
        "endpoints: {e: {backend: f, custom: nowhere:policy}}\n"
    )
    with pytest.raises(CodeError) as caught:
        packed(folder, backends)
    lines = str(caught.value).replace(f"{folder}/", "").splitlines()
    for line, (place, why) in zip(
        lines,
        (
            ("4:13", "No module named 'nowhere'"),
            ("5:13", "LookupError: no weights"),
            ("6:13", "has no 'Missing'"),
            ("7:13", "cannot have args"),
            ("8:32", "does not exist"),
        ),
        strict=True,
    ):
        assert line.startswith(f"shop.yaml:{place}: ")
        assert why in line
    tracebacks = [problem.traceback for problem in caught.value.problems]
    assert [bool(traceback) for traceback in tracebacks] == [False, True, False, False, False]
    assert tracebacks[1].splitlines()[1:] == [
        f'  File "{folder}/broken.py", line 1, in <module>',
        "    raise LookupError('no weights')",
        "LookupError: no weights",
    ]
    with pytest.raises(CodeError, match=r"shop\.yaml:10:37: traffic policy 'nowhere:policy' cannot be imported"):
        load_code(config_of(folder, f"{HEAD}backends:\n{backends}"))


def test_a_module_that_changes_after_its_trial(folder: Path) -> None:
    """Before anything is sent the files are looked at again, and named if they are not the same (CF9)."""
    config = config_of(folder, HEAD + "backends: {a: {code: models:model}}\n")
    _, check = pack(config, {"a": {**BACKEND_DEFAULTS, "code": "models:model"}})
    check()
    (folder / "lib/helper.py").write_text("VALUE = 3\n")
    with pytest.raises(ServeException, match=r"a file was changed while its code was loaded; .*lib/helper\.py"):
        check()
