"""``pointsman doctor`` on an instance that runs, and what it writes for whoever helps."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import pointsman as serve
from pointsman.cli.main import app
from pointsman.exceptions import ServeException

SECRET = "pl4nted-variable"


class NeedsWeights:
    def __init__(self, path: str) -> None:
        import os

        raise FileNotFoundError(f"no weights at {path} for {os.environ['HUB_PASS']}")


class Well:
    def __call__(self, request: Any) -> str:
        return "well"


def asked(*words: str) -> dict[str, dict[str, Any]]:
    done = CliRunner().invoke(app, ["doctor", "--json", *words])
    assert done.exit_code in (0, 1), done.output
    return {one["check"]: one for one in json.loads(done.stdout)}


def test_an_instance_is_looked_at(client: serve.Client, engine: str, served: Any, name: str, tmp_path: Path) -> None:
    """A backend that cannot start is WRONG with its cause and what to read; all else is well, and the bundle has the
    traceback without the variable's value in it (LT4)."""
    if engine == "ray":
        pytest.skip("an instance on a cluster is looked at by --address, and this one has no name")
    served(Well)
    options = {"env_vars": {"HUB_PASS": SECRET}}
    with pytest.raises(ServeException):
        client.create_backend(f"{name}-bad", NeedsWeights, "/w.bin", ray_actor_options=options)
    listed = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)
    [mine] = [one["name"] for one in listed if one["http"] == client.http_address]
    file = tmp_path / "bundle.tar.gz"
    found = asked("--name", mine, "--bundle", str(file))
    for check in ("controller", "release", f"backend {name}", "http", "console", "state", "logs"):
        assert found[f"{mine}/{check}"]["ok"], found[f"{mine}/{check}"]
    assert "answers and is ready" in found[f"{mine}/http"]["text"]
    with tarfile.open(file) as tar:
        texts = {one: tar.extractfile(one).read().decode() for one in tar.getnames()}  # type: ignore[union-attr]
    whole = "\n".join(texts.values())
    assert SECRET not in whole
    assert any(one.endswith("status.json") for one in texts)
    assert client.http_address in whole
