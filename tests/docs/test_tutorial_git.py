"""The tutorial from a notebook model to git, as far as it needs no instance."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pointsman.configfile.checking import load
from pointsman.testing import TestClient
from tests.docs.test_examples import BLOCK, ROOT

PAGE = (ROOT / "docs/tutorial-git.md").read_text()
FITTING = re.compile(r"^python - <<'END'\n(.*?)^END$", re.MULTILINE | re.DOTALL)
YAML = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytest.importorskip("sklearn", reason="scikit-learn is not installed, and the tutorial fits a model with it")


def test_the_model_of_the_tutorial_answers(tmp_path: Path) -> None:
    """Whoever copies the cells of the tutorial gets a file that serves a flower's name (RN2)."""
    (fit,), (model,) = FITTING.findall(PAGE), BLOCK.findall(PAGE)
    subprocess.run([sys.executable, "-c", fit], cwd=tmp_path, check=True, timeout=100)
    (tmp_path / "iris.py").write_text(model)
    spec = importlib.util.spec_from_file_location("iris", tmp_path / "iris.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with TestClient(module.Iris) as client:
        assert client.post(json={"sepal": [5.1, 3.5], "petal": [1.4, 0.2]}).json() == {"name": "setosa"}


@pytest.mark.parametrize("number", [0, 1])
def test_the_files_of_the_tutorial_are_valid(number: int, tmp_path: Path) -> None:
    """Both configuration files of the tutorial are right as they are printed (CF4)."""
    texts = YAML.findall(PAGE)
    assert len(texts) == 2
    first, second = texts
    head = first.partition("backends:")[0]
    (tmp_path / "shop.yaml").write_text(first if number == 0 else head + second)
    assert set(load(tmp_path / "shop.yaml").section.endpoints) == {"iris"}
