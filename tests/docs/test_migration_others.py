"""The pages for those who come from LitServe, BentoML and TorchServe: their new programs answer what the old ones did,
and what they name is there. (What the old ones answer was seen once, with the versions that the pages name.)"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

import pointsman as serve
from pointsman.configfile.applying import apply_file
from tests.conftest import empty
from tests.docs.names import absent, fenced, rows_of
from tests.docs.programs import assert_succeeded, run_program
from tests.docs.test_examples import BLOCK, ROOT

LITSERVE, BENTOML, TORCHSERVE = (
    (ROOT / f"docs/migration/{name}.md").read_text() for name in ("litserve", "bentoml", "torchserve")
)
INSTANCE = "migration-others"
WEIGHTS = [[0.5, -0.25], [-1.0, 1.5]]
"""With these the programs for BentoML and TorchServe were run."""


@pytest.fixture(scope="module")
def instance() -> Iterator[serve.Client]:
    with serve.start(True, name=INSTANCE, http_options={"port": 0}, metrics_export_port=0) as client:
        yield client


@pytest.fixture
def client(instance: serve.Client) -> Iterator[serve.Client]:
    yield instance
    empty(instance)


def answers_as_shown(client: serve.Client, page: str, **other_body: object) -> httpx.Response:
    """The command of the page prints what the page shows. Returns the answer to another body."""
    command, shown = fenced(page, "console")[-1].splitlines()
    curl, url, _, header, _, body = shlex.split(command)
    assert curl == "curl"
    name, _, value = header.partition(": ")
    address = url.replace("http://127.0.0.1:8000", str(client.http_address))
    assert httpx.post(address, content=body, headers={name: value}, timeout=60).text == shown
    return httpx.post(address, json=other_body, timeout=60)


def test_the_program_from_litserve(client: serve.Client, tmp_path: Path) -> None:
    """The program is served at the path, with the bodies and answers of the LitAPI; a bad body is a 422 (DO2)."""
    program = BLOCK.findall(LITSERVE)[1]
    assert program.endswith("    client.wait()\n")
    there = program.replace("serve.start()", f"serve.connect({INSTANCE!r})").replace("    client.wait()\n", "")
    assert_succeeded(run_program(there, tmp_path))
    misfit = answers_as_shown(client, LITSERVE, txt="a fine day")
    assert (misfit.status_code, misfit.json()["detail"][0]["loc"]) == (422, ["body", "text"])
    config = client.get_backend_config("tone")
    assert (config.num_replicas, config.max_batch_size, config.batch_wait_timeout) == (2, 8, 0.01)


def test_the_methods_of_a_litapi_as_they_are(client: serve.Client) -> None:
    """With the page's base class the old program's class is served as it stands (DO2)."""
    old, _, base = BLOCK.findall(LITSERVE)
    model = old.replace("import litserve as ls\n", "").replace("ls.LitAPI", "Ported").partition("\n\nif __name__")[0]
    names: dict[str, type] = {}
    exec(base + model, names)
    client.deploy("tone", names["Tone"], route="/predict", config={"max_batch_size": 8, "batch_wait_timeout": 0.01})
    answers_as_shown(client, LITSERVE)


@pytest.mark.parametrize("page", [BENTOML, TORCHSERVE], ids=["bentoml", "torchserve"])
def test_the_programs_from_bentoml_and_torchserve(client: serve.Client, page: str, tmp_path: Path) -> None:
    """The page's file and its code serve what they served before, by the line that the page shows (DO2)."""
    (tmp_path / "flowers.py").write_text(BLOCK.findall(page)[1])
    (tmp_path / "flowers.yaml").write_text(fenced(page, "yaml")[-1])
    np.save(tmp_path / "weights.npy", np.array(WEIGHTS))
    apply_file(client, tmp_path / "flowers.yaml")
    misfit = answers_as_shown(client, page, petal=2)
    assert (misfit.status_code, misfit.json()["detail"][0]["type"]) == (422, "missing")


def test_everything_that_the_tables_name_is_there() -> None:
    """Whoever looks up an old name finds one that exists: function, field, option or command (DO2)."""
    pages = {"LitServe": LITSERVE, "BentoML": BENTOML, "TorchServe": TORCHSERVE}
    rows = [row for name, page in pages.items() for row in rows_of(page, name)]
    assert len(rows) > 70
    assert absent(rows) == []
    management = re.findall(r"^\| `\w+ /models.*$", TORCHSERVE, re.MULTILINE)
    assert len(management) == 5
    assert absent([("8081", cell) for row in management for cell in row.split(" | ")[1:]]) == []
