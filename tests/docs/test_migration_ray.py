"""The pages for those who come from Ray Serve: what they say to type works, and what they name is there."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import pointsman as serve
from pointsman.configfile.applying import apply_file
from tests.conftest import empty
from tests.docs.names import absent, fenced, missing, rows_of
from tests.docs.programs import assert_succeeded, run_program
from tests.docs.test_examples import BLOCK, ROOT

FIRST, SECOND = ((ROOT / f"docs/migration/ray-serve-{name}.md").read_text() for name in ("1x", "2x"))
INSTANCE = "migration-ray"


@pytest.fixture(scope="module")
def instance() -> Iterator[serve.Client]:
    with serve.start(True, name=INSTANCE, http_options={"port": 0}, metrics_export_port=0) as client:
        yield client


@pytest.fixture
def client(instance: serve.Client) -> Iterator[serve.Client]:
    yield instance
    empty(instance)


def ported_by_the_command(program: str, folder: Path) -> str:
    """What the command of the page for 1.x makes of a program."""
    if shutil.which("sed") is None or b"GNU" not in subprocess.run(["sed", "--version"], capture_output=True).stdout:
        pytest.skip("the command of the page is for GNU sed, which is not here")
    (folder / "old.py").write_text(program)
    command = next(block for block in fenced(FIRST, "console") if block.startswith("sed"))
    subprocess.run(["bash", "-c", command], cwd=folder, check=True, timeout=60)
    return (folder / "old.py").read_text()


def test_one_command_ports_a_program_of_1x(client: serve.Client, tmp_path: Path) -> None:
    """The page's command makes what the page shows of its program, which runs then (EX1, EX12, DO2)."""
    (old,), (shown,) = BLOCK.findall(FIRST), fenced(FIRST, "diff")
    new = ported_by_the_command(old, tmp_path)
    before, after = old.splitlines(), new.splitlines()
    assert [line for line in before if line not in after] == [x[1:] for x in shown.splitlines() if x[0] == "-"]
    assert [line for line in after if line not in before] == [x[1:] for x in shown.splitlines() if x[0] == "+"]
    ended = run_program(new.replace("serve.start()", f"serve.connect({INSTANCE!r})"), tmp_path)
    assert_succeeded(ended)
    assert ended.stdout == "[True, False]\n"
    assert "It prints `[True, False]`." in FIRST
    assert client.get_traffic("spam")["weights"] == {"spam-1": 0.9, "spam-2": 0.1}


def test_the_command_knows_releases_without_a_client(tmp_path: Path) -> None:
    """Where functions of the module did what the client does here, the command makes calls of a client (DO2)."""
    old = """\
import ray
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.util.metrics import Counter

ray.init(address="auto")
serve.start()
class Both:
    def __init__(self):
        self.one = serve.get_handle("one")
serve.create_backend("one", one)
serve.set_traffic("one", {"one": 1.0})
done, rest = ray.wait([serve.get_handle("one").remote()])
"""
    assert (
        ported_by_the_command(old, tmp_path)
        == """\
import pointsman as serve
from pointsman.exceptions import RayServeException
from pointsman.metrics import Counter

client = serve.start()
class Both:
    def __init__(self):
        self.one = serve.connect().get_handle("one")
client.create_backend("one", one)
client.set_traffic("one", {"one": 1.0})
done, rest = serve.wait([client.get_handle("one").remote()])
"""
    )


def test_the_command_leaves_code_that_it_would_break(tmp_path: Path) -> None:
    """What starts the cluster within a function or beside other code takes nothing else with it (DO2)."""
    old = """\
import ray.serve as serve
from ray.serve.api import Client
ray.init(num_cpus=8)  # of 16
ray.init(); client = serve.start()
def main():
    ray.init(ignore_reinit_error=True)
"""
    assert (
        ported_by_the_command(old, tmp_path)
        == """\
import pointsman as serve
from pointsman import Client
ray.init(); client = serve.start()
def main():
    pass
"""
    )


@pytest.mark.parametrize("name", ["deployment", "batch", "create_backend", "ServeRequest"])
def test_an_import_of_a_name_that_is_not_here(name: str) -> None:
    """An import of a name of Ray Serve that is not here says what to write; other ones say what Python says (DO2)."""
    with pytest.raises(ImportError, match=rf"^cannot import name '{name}' from 'pointsman'; .*(write|method|class)"):
        exec(f"from pointsman import {name}")
    assert not hasattr(serve, name)
    with pytest.raises(ImportError, match=r"pointsman/__init__\.py"):
        exec("from pointsman import nonsense")


def test_the_program_from_2x_answers_as_it_did(client: serve.Client, tmp_path: Path) -> None:
    """The page's file and its code serve what they served with Ray Serve, by the line that the page shows (DO2)."""
    _, new = BLOCK.findall(SECOND)
    _, config = fenced(SECOND, "yaml")
    (tmp_path / "reviews.py").write_text(new)
    (tmp_path / "reviews.yaml").write_text(config)
    apply_file(client, tmp_path / "reviews.yaml")
    command, shown = fenced(SECOND, "console")[0].splitlines()
    curl, url, _, header, _, body = shlex.split(command)
    assert curl == "curl"
    name, _, value = header.partition(": ")
    address = url.replace("http://127.0.0.1:8000", str(client.http_address))
    answer = httpx.post(address, content=body, headers={name: value}, timeout=60)
    assert answer.text == shown
    assert client.get_backend_config("tone").num_replicas == "auto"


def tables() -> list[tuple[str, str]]:
    return [row for page in (FIRST, SECOND) for row in rows_of(page, r"Ray Serve \d\.x")]


def test_everything_that_the_tables_name_is_there() -> None:
    """Whoever looks up an old name finds one that exists: function, field, option or command (DO2)."""
    rows = tables()
    assert len(rows) > 60
    assert absent(rows) == []
    for wrong in ("client.create_beckend", "pointsman.handle.Handel", "num_replica", "pointsman aply"):
        assert missing(wrong) == [wrong]


def test_a_handle_of_what_does_not_exist(client: serve.Client) -> None:
    """Whoever asks for a handle before its endpoint is made is told how that goes (HA3)."""
    with pytest.raises(KeyError, match="missing_ok=True waits for it"):
        client.get_handle("later")
