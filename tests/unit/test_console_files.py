"""Configuration files that are sent to the console: compared without code, and without a word about secrets."""

from __future__ import annotations

import json
import signal
import subprocess
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from pointsman.calling.session import Credentials
from pointsman.configfile.exporting import export
from pointsman.configfile.plan import Rules
from pointsman.configfile.problems import BadFileError
from pointsman.configfile.wanting import wanted_of
from pointsman.configfile.yamltree import write_yaml
from pointsman.console import configs
from pointsman.console.bodies import ConfigFile
from pointsman.console.configs import compare_fields, config_of
from pointsman.console.table import Ask
from pointsman.model.tokens import Holder
from tests.unit.test_config_export import rich
from tests.unit.test_config_plan import OWNER, declared


def compared(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What the console says of a file that was sent, against the instance of ``rich``."""
    there = rich()
    config = config_of(ConfigFile(".json", json.dumps({**content, **changes}).encode()), there)
    found = compare_fields(wanted_of(config, ""), there, Rules()).as_json()
    assert "s3cret" not in json.dumps(found)
    return found


@pytest.fixture
def exported() -> dict[str, Any]:
    """The file of the instance."""
    content = export(rich(), OWNER, "default").content
    assert "s3cret" not in json.dumps(content)
    return content


def test_what_was_exported_differs_in_nothing(exported):
    """I get the configuration by the API and send it back for a comparison: nothing differs, though its secrets were
    left out, and none of its code is imported (AD5, CF3)."""
    found = compared(exported)
    assert (found["changes"], found["conflicts"]) == ([], [])
    text = ConfigFile(".yaml", write_yaml(exported).encode())
    assert (
        config_of(text, rich()).section == config_of(ConfigFile(".json", json.dumps(exported).encode()), rich()).section
    )


def test_a_secret_that_changes_is_not_shown(exported):
    """A new value of an environment variable is a difference whose values are stars (CF3)."""
    backends = json.loads(json.dumps(exported["backends"]))
    backends["a"]["ray_actor_options"]["env_vars"]["HUB"] = "another"
    (change,) = compared(exported, backends=backends)["changes"]
    assert change["action"] == "replace"
    assert change["fields"][0]["to"]["env_vars"] == {"HUB": "***"}
    assert "another" not in json.dumps(change)


def test_a_long_file_takes_no_time_of_the_console(monkeypatch):
    """A mebibyte of YAML or TOML can take minutes to read. Whoever may only look has it read by another process, which
    loads no code and is ended after 20 s; that is a refusal in one sentence (AD5, G12)."""
    orders = []

    def run(command: Any, *, input: bytes, **options: Any) -> Any:  # noqa: A002 - as in subprocess
        orders.append(msgspec.msgpack.decode(input, type=configs.Order))
        return subprocess.CompletedProcess(command, -signal.SIGXCPU, b"")

    monkeypatch.setattr(configs.subprocess, "run", run)
    monkeypatch.setattr(configs, "on_ray", lambda path: False)
    file = ConfigFile(".toml", b"a" + b".a" * configs.LONGEST_HERE + b"=1")
    client: Any = SimpleNamespace(
        _credentials=Credentials("instance", "/nowhere", "console", "", b"", 1.0), token="t", key="", if_version=None
    )
    with pytest.raises(ValueError, match="was not read within 20 s"):
        configs.diff_config(Ask(client, Holder("anna", "view"), {}, {}, file))
    assert [(order.loads, order.applies) for order in orders] == [(False, False)]


@pytest.mark.parametrize("field", ["version", "code", "args"])
def test_a_placeholder_elsewhere_stands_for_nothing(exported, field):
    """Nobody reads a secret by naming it where it would be shown (CF3)."""
    backends = json.loads(json.dumps(exported["backends"]))
    backends["a"][field] = ["${HUB}"] if field == "args" else "${HUB}"
    with pytest.raises(BadFileError, match="HUB is not set") as caught:
        compared(exported, backends=backends)
    assert "s3cret" not in str(caught.value)


def test_another_backend_does_not_get_the_secret(exported):
    """A placeholder stands for the value of its own backend, and of no other (CF3)."""
    backends = {**exported["backends"], "mine": exported["backends"]["a"]}
    with pytest.raises(BadFileError, match="HUB is not set"):
        compared(exported, backends=backends)


@pytest.mark.parametrize("path", ["models", "./models", "../x"])
def test_a_file_that_was_sent_has_no_folder(path):
    """Folders of a file that was sent are absolute: it came from another machine, perhaps (AD5)."""
    file = {"pointsman": 1, "name": "shop", "python_path": [path]}
    with pytest.raises(ValueError, match="must be absolute"):
        config_of(ConfigFile(".json", json.dumps(file).encode()), declared([]))


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b'{"pointsman": 2}', b'{"python_path": 3}', b'{"python_path": [3]}']
)
def test_what_is_no_file_is_refused_with_its_reasons(data):
    """A file that is none is refused as the command line would (AD6)."""
    with pytest.raises(BadFileError) as caught:
        config_of(ConfigFile(".json", data), declared([]))
    assert caught.value.problems


def test_new_code_is_compared_by_its_name(exported):
    """A new backend, and another code of one that there is, are seen without loading either (AD5)."""
    backends = json.loads(json.dumps(exported["backends"]))
    backends["b c"]["code"] = "no.such.module:Thing"
    backends["new"] = {"code": "no.such.module:Thing"}
    found = compared(exported, backends=backends)
    assert [(one["action"], one["object"]) for one in found["changes"]] == [
        ("replace", "backend/b c"),
        ("create", "backend/new"),
    ]
