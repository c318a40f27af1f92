"""The trial import of what `pointsman run` serves, in a process of its own."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pointsman.running.trial as trial_module
from pointsman.running.targets import Target, TargetError, parse_target
from pointsman.running.tracebacks import from_users_line, user_traceback
from pointsman.running.trial import CodeError, Superseded, Trial

MODEL = """
from helper import WORD

class Model:
    def __init__(self, word=WORD):
        self.word = word
    def __call__(self, request):
        return self.word
"""


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def target(tmp_path: Path) -> Target:
    (tmp_path / "trial_model.py").write_text(MODEL)
    (tmp_path / "helper.py").write_text("WORD = 'one'\n")
    return parse_target("trial_model.py", tmp_path)


class Trials:
    """Trials that end with the test."""

    def __init__(self) -> None:
        self.all: list[Trial] = []

    def __call__(self, target: Target, *args: Any, stays: bool = False) -> Trial:
        self.all.append(Trial(target, args, stays=stays))
        return self.all[-1]


@pytest.fixture
def trial() -> Iterator[Trials]:
    trials = Trials()
    yield trials
    for one in trials.all:
        one.close()


def test_the_code_is_looked_at_and_not_kept(target: Target, trial: Trials):
    """What I run is imported elsewhere, with its siblings, and goes to replicas by its import path (RN1, RN2)."""
    found = trial(target, "two").result()
    assert (found.name, found.path, found.app, found.traits.is_class) == ("Model", "trial_model:Model", False, True)
    assert "trial_model" not in sys.modules
    assert "helper" not in sys.modules
    code, args = pickle.loads(pickle.dumps((found.code(), ())))  # as a replica does it: it imports
    assert (code(*args).word, code.__module__) == ("one", "trial_model")
    for name in ("trial_model", "helper"):
        del sys.modules[name]


def test_an_app_goes_by_its_path(tmp_path: Path, trial: Trials):
    """A bare FastAPI app is served as `serve.asgi` serves it, and replicas import it (RN2)."""
    (tmp_path / "trial_app.py").write_text("from fastapi import FastAPI\napp = FastAPI()\n")
    found = trial(parse_target("trial_app.py", tmp_path)).result()
    assert (found.name, found.app, found.traits.surface) == ("app", True, "asgi")
    assert repr(pickle.loads(pickle.dumps(found.code()))) == "serve.asgi('trial_app:app')"


def test_only_the_users_frames_are_shown(target: Target, tmp_path: Path, trial: Trials):
    """Code that cannot be imported is shown as Python shows it, from my own first line on (RN2)."""
    (tmp_path / "helper.py").write_text("def fail():\n    raise RuntimeError('no weights')\n\nWORD = fail()\n")
    with pytest.raises(CodeError) as caught:
        trial(target).result()
    lines = str(caught.value).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == f'  File "{tmp_path}/trial_model.py", line 2, in <module>'
    assert lines[-1] == "RuntimeError: no weights"
    assert "importlib" not in str(caught.value)
    assert "running" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("class Model:\n    def __call__(self request): ...\n", "SyntaxError: "),
        ("import sys\nsys.exit('not here')\n", "SystemExit: not here"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "has ended the interpreter (signal 9)"),
        ("import os\nos._exit(3)\n", "has ended the interpreter (exit code 3)"),
        ("import pointsman as serve\nserve.run({'/': print})\n", "put it under: if __name__"),
    ],
)
def test_code_that_ends_while_it_is_imported(text: str, told: str, target: Target, trial: Trials):
    """A syntax error, an exit or a crash at import is told of, and ends nothing here (RN2)."""
    Path(target.file).write_text(text)
    with pytest.raises(CodeError) as caught:
        trial(target).result()
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "args", "told"),
    [
        ("x = 1\n", (), "and no app$"),
        ("class Model: ...\n", (), r"without a method '__call__\(self, request\)': Model$"),
        ("def model(request): ...\n", (1,), "init args"),
        ("class Model:\n    def __call__(self, a, b, c): ...\n", (), "cannot be served: "),
    ],
)
def test_code_that_cannot_be_served(text: str, args: tuple[Any, ...], told: str, target: Target, trial: Trials):
    """Code without a callable, or with one that no request fits, is a wrong target (RN2)."""
    Path(target.file).write_text(text)
    with pytest.raises(TargetError, match=told):
        trial(target, *args).result()


def test_a_name_that_is_taken(tmp_path: Path, trial: Trials):
    """A file with the name of a module that is loaded is not mistaken for that one (RN2)."""
    (tmp_path / "logging.py").write_text("def model(request): ...\n")
    with pytest.raises(TargetError, match="is the name of another module"):
        trial(parse_target("logging.py", tmp_path)).result()


def test_the_code_is_tried_again_as_it_is_now(target: Target, tmp_path: Path, trial: Trials):
    """Each trial sees my files as they are then, those that the target imports too; a bad one spoils no later one
    (RN3)."""
    tried = trial(target, stays=True)
    assert tried.result().name == "Model"
    (tmp_path / "helper.py").write_text("raise OSError('half written')\n")
    with pytest.raises(CodeError, match="half written"):
        tried.again()
    (tmp_path / "helper.py").write_text("import os\nos._exit(1)\n")
    with pytest.raises(CodeError, match="exit code 1"):
        tried.again()
    (tmp_path / "helper.py").write_text("WORD = 'three'\n")
    Path(target.file).write_text(MODEL.replace("Model", "Better"))
    assert tried.again().name == "Better"


def test_a_file_that_changes_while_it_is_read(target: Target, trial: Trials):
    """A file that is saved whenever it is imported is refused, and so never served half old, half new (RN2)."""
    saving = "import os, time\nos.utime(__file__, ns=(0, time.time_ns() + AHEAD))\ndef model(request): ...\n"
    Path(target.file).write_text(saving.replace("AHEAD", "0"))
    with pytest.raises(TargetError, match="changed while it was read, 3 times"):
        trial(target).result()
    Path(target.file).write_text(saving.replace("AHEAD", "10**15"))  # a clock that is wrong is no reason
    assert trial(target).result().name == "model"


def test_a_trial_that_hangs_is_ended(target: Target, tmp_path: Path, trial: Trials):
    """Code that waits for ever at import is ended with the command (RN2)."""
    Path(target.file).write_text("import time\nopen('begun', 'w').close()\ntime.sleep(3600)\n")
    one = trial(target)
    pid = one._pid
    one.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_import_that_hangs_is_given_up_for_newer_code(target: Target, tmp_path: Path, trial: Trials):
    """I save code that waits for ever at import: the next good save is loaded all the same (RN3)."""
    tried = trial(target, stays=True)
    tried.result()
    begun = tmp_path / "begun"
    (tmp_path / "helper.py").write_text(f"import time\nopen({str(begun)!r}, 'w').close()\ntime.sleep(3600)\n")
    for _ in range(2):
        with pytest.raises(Superseded):
            tried.again(begun.exists)
        begun.unlink()
    (tmp_path / "helper.py").write_text("WORD = 'three'\n")
    assert tried.again(begun.exists).name == "Model"


def test_ctrl_c_is_left_to_the_command(target: Target, tmp_path: Path, trial: Trials):
    """Ctrl-C in a terminal reaches the import as well, and prints nothing of its own (RN3)."""
    tried = trial(target, stays=True)
    tried.result()
    os.kill(tried._pid, signal.SIGINT)
    assert tried.again().name == "Model"


def test_chained_errors_are_shown_whole():
    """The cause of an error is shown with it (RN2)."""

    def fail() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    try:
        fail()
    except ValueError as error:
        told = user_traceback(error)
    assert told.index("KeyError: 'first'") < told.index("direct cause") < told.index("ValueError: second")


def test_frames_of_libraries_above_my_own_are_not_shown():
    """What fails below a library or an import in a replica is shown from my own first line on, its causes as well; what
    is all in packages is shown whole (RN2)."""
    header = "Traceback (most recent call last):\n"
    library = '  File "/venv/lib/site-packages/starlette/routing.py", line 661, in lifespan\n    pass\n    ^^^^\n'
    python = f'  File "{contextlib.__file__}", line 210, in __aenter__\n    pass\n'
    ours = f'  File "{trial_module.__file__}", line 1, in unpack\n'
    frozen = '  File "<frozen importlib._bootstrap>", line 1204, in _gcd_import\n'
    mine = '  File "/home/ada/app.py", line 5, in life\n    raise RuntimeError\n'
    joint = "\nDuring handling of the above exception, another exception occurred:\n\n"

    def told(*frames: str) -> str:
        return from_users_line("".join([header, *frames, "RuntimeError: no database"]))

    assert told(library, python, mine, library) == f"{header}{mine}{library}RuntimeError: no database"
    assert told(ours, python, frozen, mine) == f"{header}{mine}RuntimeError: no database"
    assert told(ours, library) == f"{header}{library}RuntimeError: no database"
    assert told(ours) == "RuntimeError: no database"
    both = from_users_line(f"{header}{library}{mine}KeyError: 1\n{joint}{header}{ours}{mine}OSError: 2")
    assert both == f"{header}{mine}KeyError: 1\n{joint}{header}{mine}OSError: 2"
