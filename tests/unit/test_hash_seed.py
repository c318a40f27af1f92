"""PYTHONHASHSEED=0 makes the hashes of strings known to everybody; nothing of ours runs with it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import pointsman as serve
from pointsman.actor_options import check_hash_seed
from pointsman.client import start as starting


@pytest.mark.parametrize("value", ["1", "4294967295", "random", "", None])
def test_other_seeds_are_fine(value: str | None) -> None:
    """A seed that is not 0, and none at all, are no problem (H12)."""
    check_hash_seed({} if value is None else {"PYTHONHASHSEED": value})


@pytest.mark.parametrize("value", ["s3cret", "-1", "4294967296", "9" * 5000])
def test_what_python_refuses_is_refused_before(value: str) -> None:
    """Python would end with words about its runtime state; the value may be a secret, and is not shown (H12, CF3)."""
    with pytest.raises(ValueError, match=r"^PYTHONHASHSEED must be 'random' or a number") as caught:
        check_hash_seed({"PYTHONHASHSEED": value})
    assert "s3cret" not in str(caught.value)


def test_start_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """With PYTHONHASHSEED=0 in the environment `start` is an error at once, and nothing is started (H12)."""
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    monkeypatch.setattr(starting, "raise_instance", lambda *args: pytest.fail("something was started"))
    with pytest.raises(ValueError, match=r"PYTHONHASHSEED is '0'.*unset it"):
        serve.start(http_options={"port": 0})


@pytest.mark.parametrize("process", ["replica", "ingress", "controller"])
def test_processes_refuse(process: str) -> None:
    """So do the processes themselves, however they came by it (H12)."""
    program = (
        "from pointsman.engine.process import run_process\n"
        "async def main(): print('ran')\n"
        f"run_process(main(), process={process!r}, log_format='text')"
    )
    for seed, code in (("0", 1), ("7", 0)):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        ended = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
        assert ended.returncode == code
        assert ("ran" in ended.stdout) == (code == 0)
        if code:
            assert ended.stderr.startswith(f"the {process} does not start with PYTHONHASHSEED=0")
