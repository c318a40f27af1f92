"""The examples of docs/environments.md that need environments, run with some that are made here; and those of
"Dependency Management" of Ray Serve 1.x, which they are drawn from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.programs import assert_succeeded, run_program
from tests.docs.test_examples import BLOCK, FREE_PORT, ROOT
from tests.environments import Environments, site_packages

PAGE = (ROOT / "docs" / "environments.md").read_text()


def example(word: str) -> str:
    """The one example with a word in it, on a free port."""
    (text,) = (block for block in BLOCK.findall(PAGE) if word in block)
    return text.replace("serve.start()", FREE_PORT)


NAMED = """
class Named:
    def __init__(self, arg):
        self.arg = arg

    def __call__(self, request):
        return self.arg
"""


@pytest.fixture(scope="module")
def conda(environments: Environments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conda installation with the two environments of Ray Serve 1.x's page; a module stands in for Tensorflow."""
    root = tmp_path_factory.mktemp("conda")
    for name, version in (("ray-tf1", "1.15.5"), ("ray-tf2", "2.4.0")):
        prefix = environments.conda(root, name)
        (site_packages(prefix) / "tensorflow.py").write_text(f"__version__ = {version!r}\n")
        (site_packages(prefix) / "installed_there.py").write_text(NAMED)
    return root


def test_virtual_environment(environments: Environments, tmp_path: Path) -> None:
    """The example prints where its replica runs (DM5, DM8)."""
    prefix = environments.copy(to=tmp_path / "models" / ".venv")
    ended = run_program(example("models/.venv"), tmp_path)
    assert_succeeded(ended)
    assert ended.stdout.strip() == str([f"{prefix}/bin/python", str(prefix), str(prefix)])


def test_conda_environments(conda: Path, tmp_path: Path) -> None:
    """Two backends with two Tensorflows answer at once, by object and by plain name (DM1, DM2, EX16)."""
    ended = run_program(example("ray-tf1"), tmp_path, CONDA_EXE=f"{conda}/bin/conda")
    assert_succeeded(ended)
    assert ended.stdout.split("\n")[:2] == ["Tensorflow 1.15.5", "Tensorflow 2.4.0"]


def test_what_ray_serve_1x_has_as_well(conda: Path, tmp_path: Path) -> None:
    """The script itself may import Tensorflow, as in Ray Serve 1.x's example: replicas have their own (DM1). A class
    that is installed in the replicas' environment only is named by its path, with an init arg (DM4)."""
    at_top = example("ray-tf1").replace("    import tensorflow as tf\n\n", "")
    of_the_driver = """
import sys, types
sys.modules["tensorflow"] = tf = types.ModuleType("tensorflow")
tf.__version__ = "of the driver"
"""
    imported = """
from pointsman.backends import ImportedBackend

backend_class = ImportedBackend("installed_there.Named")
client.create_backend("imported", backend_class, "input_arg", env="ray-tf1")
client.create_endpoint("imported", backend="imported", route="/imported")
print(client.get_handle("imported").remote().result())
"""
    ended = run_program(of_the_driver + at_top + imported, tmp_path, CONDA_EXE=f"{conda}/bin/conda")
    assert_succeeded(ended)
    said = ended.stdout.split("\n")
    assert (said[:2], said[-2]) == (["Tensorflow 1.15.5", "Tensorflow 2.4.0"], "input_arg")
