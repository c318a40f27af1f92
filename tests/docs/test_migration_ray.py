"""The pages for those who come from Ray Serve: what they say to type works, and what they name is there."""

from __future__ import annotations

import inspect
import pkgutil
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.main import get_command

import pointsman as serve
from pointsman.cli.main import app
from pointsman.config import AutoscalingConfig, BackendConfig, HTTPOptions
from pointsman.configfile.applying import apply_file
from pointsman.handle import CallOptions, ServeHandle
from pointsman.usercode.packing import CLOSED_METHODS
from tests.conftest import empty
from tests.docs.programs import assert_succeeded, run_program
from tests.docs.test_examples import BLOCK, ROOT

FIRST, SECOND = ((ROOT / f"docs/migration/ray-serve-{name}.md").read_text() for name in ("1x", "2x"))
INSTANCE = "migration-ray"

HERE = re.compile(r"^\| Ray Serve \d\.x \| here \| \|\n\|[ \-|]+\|\n((?:\|.*\n)+)", re.MULTILINE)
CALL = re.compile(r"(?<![\w.])(serve|client|handle)\.(\w+)")
MODULES = re.compile(r"\bpointsman(?:\.\w+)+")
KEYWORD = re.compile(r"\b(\w+)=")

HEADERS = {"X-SERVE-SHARD-KEY", "X-SERVE-CALL-METHOD"}
VARIABLES = {"OMP_NUM_THREADS", "OTEL_EXPORTER_OTLP_ENDPOINT"}
"""Of the environment."""


def fenced(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


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


def known_names() -> set[str]:
    """What a name alone may mean: a field, an option, a parameter, a method that we call."""
    models = (BackendConfig, HTTPOptions, AutoscalingConfig)
    names = {name for model in models for name in model.model_fields} | {*CallOptions._fields} | HEADERS | VARIABLES
    names |= {name.removeprefix("experimental_") for name in names} | CLOSED_METHODS | {"timeout"}
    functions = (serve.start, serve.Client.deploy, serve.Client.create_endpoint, serve.Client.shadow_traffic)
    return names.union(*(inspect.signature(function).parameters for function in functions))


def missing(code: str) -> list[str]:
    """Of a piece of code in a table, the names that do not exist."""
    if code.startswith("pointsman "):
        return [] if code.split()[1] in get_command(app).commands else [code]  # type: ignore[attr-defined]
    roots: dict[str, Any] = {"serve": serve, "client": serve.Client, "handle": ServeHandle}
    paths = CALL.findall(code)
    absent = [f"{root}.{path}" for root, path in paths if root in roots and not hasattr(roots[root], path)]
    absent += [path for path in MODULES.findall(code) if not is_importable(path)]
    alone = [] if paths or MODULES.search(code) else [code.removeprefix("@").partition("=")[0]]
    return absent + [name for name in alone + KEYWORD.findall(code) if name not in known_names()]


def is_importable(path: str) -> bool:
    """Whether the name of a module, or of what is in one, can be imported."""
    try:
        pkgutil.resolve_name(path)
    except (ImportError, AttributeError):
        return False
    return True


def tables() -> list[tuple[str, str]]:
    rows = [row for page in (FIRST, SECOND) for table in HERE.findall(page) for row in table.splitlines()]
    return [(left, here) for left, here, *_ in (re.split(r"(?<!\\) \| ", row.strip("| ")) for row in rows)]


def test_everything_that_the_tables_name_is_there() -> None:
    """Whoever looks up an old name finds one that exists: function, field, option or command (DO2)."""
    rows = tables()
    assert len(rows) > 60
    codes = [(left, code) for left, here in rows for code in re.findall(r"`([^`]+)`", here)]
    assert [(left, name) for left, code in codes for name in missing(code)] == []
    for wrong in ("client.create_beckend", "pointsman.handle.Handel", "num_replica", "pointsman aply"):
        assert missing(wrong) == [wrong]


def test_a_handle_of_what_does_not_exist(client: serve.Client) -> None:
    """Whoever asks for a handle before its endpoint is made is told how that goes (HA3)."""
    with pytest.raises(KeyError, match="missing_ok=True waits for it"):
        client.get_handle("later")
