"""The example of fifty models, run as a user runs it, and what it says of loads."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import WAIT_S, needs
from tests.docs.example_pages import ROOT
from tests.properties import PROFILE

pytestmark = needs("sklearn", "django")
EXAMPLE = ROOT / "examples" / "many_models.py"
SAID = re.compile(
    r"^for example, \S+: .+ -> .+\n3000 requests for (?P<models>\d+) models: (?P<right>[\d.]+)% right\n"
    r"(?P<loads>\d+) loads, so (?P<found>\d+)% found their model loaded$",
    re.M,
)


@pytest.mark.skipif(PROFILE == "gate", reason="make test-long has it; tests/loop has its rules")
def test_fifty_models_in_two_replicas(tmp_path: Path) -> None:
    """I run the example of fifty models: each answer is that of the model that was asked for, the models that are held
    are few, and they are there nearly as often as in one cache of their size, 77 % (MX5, MX7, SF4)."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = SAID.search(done.stdout)
    assert said is not None, done.stdout
    assert float(said["right"]) > 95, "the model of another language is hardly ever right"
    assert int(said["found"]) >= 70, done.stdout
    held = re.findall(r"^translator#\w+ holds (.*)$", done.stdout, re.M)
    assert [len(models.split(", ")) for models in held] == [12, 12], done.stdout
