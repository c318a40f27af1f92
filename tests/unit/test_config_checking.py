"""All that is wrong with a configuration file is found at once, with its place; what is right becomes options."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import jsonschema
import pytest

from pointsman.actor_options import parse_actor_options
from pointsman.client import Client
from pointsman.client.start import start
from pointsman.config import BackendConfig, HTTPOptions
from pointsman.configfile.models import (
    BackendSection,
    ConfigSection,
    EndpointSection,
    InstanceSection,
    json_schema,
)
from pointsman.configfile.reading import parse
from tests.unit.configuring import EXAMPLE, HEAD, config_of, lines_of

MANY = """\
pointsman: 1
nam: shop
instance: {http: {prot: 80}, engine: slurm}
backends:
  a:
    cod: m:A
    args: 5
  b:
    code: not a path
    config: {num_replicas: 0, num_replica: 2}
    ray_actor_options: {num_cpus: -1, num_cpu: 1, env_vars: {TOKEN: 12345}}
    env: {conda: x, virtualenv: y}
    version: 2
endpoints:
  e:
    route: rank
    traffic: {a: 50%, b: 60%}
    shadows: {bb: 10%}
  f: {methods: [], shard_key: user}
  g: {backend: a, traffic: {b: 1}, pins: {k: nobody}, max_body_bytes: 0.5, idempotent: maybe}
"""


def test_all_problems_at_once(tmp_path):
    """Whoever writes a file sees all that is wrong with it at once, by line and column, with the nearest name (CF2)."""
    found = lines_of(tmp_path, MANY)
    for line in (
        "shop.yaml:1:1: the file has no 'name', and needs it",
        "shop.yaml:2:1: the file has no field 'nam'; did you mean 'name'?",
        "shop.yaml:3:19: HTTPOptions has no field 'prot'; did you mean 'port'?",
        "shop.yaml:3:38: 'engine' must be 'local' or 'ray', not \"slurm\"",
        "shop.yaml:5:3: backend 'a' has no 'code', and needs it",
        "shop.yaml:6:5: backend 'a' has no field 'cod'; did you mean 'code'?",
        "shop.yaml:7:11: 'args' must be a list, not 5",
        "shop.yaml:10:28: num_replicas of BackendConfig is 0, but should be greater than or equal to 1",
        "shop.yaml:10:31: BackendConfig has no field 'num_replica'; did you mean 'num_replicas'?",
        "shop.yaml:11:35: num_cpus must be finite and at least 0, not -1",
        "shop.yaml:11:39: ray_actor_options has no option 'num_cpu'; did you mean 'num_cpus'?",
        "shop.yaml:11:69: variable 'TOKEN' of env_vars must be a text; write it in quotes",
        "shop.yaml:12:10: env must have exactly one of conda, virtualenv, requirements, and has conda and virtualenv",
        "shop.yaml:13:14: 'version' must be a text; write it in quotes, not 2",
        "shop.yaml:16:12: route must be a str that starts with '/', not 'rank'",
        "shop.yaml:17:14: traffic weights must sum to 1, and these sum to 1.1: {'a': 0.5, 'b': 0.6}",
        "shop.yaml:18:15: backend 'bb' is not in this file; did you mean 'b'?",
        "shop.yaml:19:3: endpoint 'f' must have one of backend, traffic, initial_traffic, and has none of them",
        "shop.yaml:20:3: endpoint 'g' must have one of backend, traffic, initial_traffic, and has backend and traffic",
        "shop.yaml:20:46: backend 'nobody' is not in this file; it has a, b",
    ):
        assert line in found, "\n".join(found)
    assert any(line.startswith("shop.yaml:9:11: 'not a path' is not an import path") for line in found)
    assert any(line.startswith("shop.yaml:19:16: methods [] allows no request") for line in found)
    assert any(line.startswith("shop.yaml:19:31: shard_key must be") for line in found)
    assert any(line.startswith("shop.yaml:20:71: max_body_bytes must be an int") for line in found)
    assert any(line.startswith("shop.yaml:20:88: 'idempotent' must be true or false") for line in found)
    assert found == sorted(found, key=lambda line: tuple(map(int, line.split(":")[1:3])))
    assert "12345" not in "".join(found)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "shop.yaml: it is empty; the first line is 'pointsman: 1'"),
        ("- a", "shop.yaml:1:1: it is no mapping"),
        ("pointsman: 2\nwhatever: [new]\n", "shop.yaml:1:12: format 2 is newer than this version of Pointsman"),
        ("pointsman: 0\nname: a\n", "shop.yaml:1:12: format 0 is none; the first is 1"),
        ("pointsman: '2'\nname: a\n", "shop.yaml:1:12: format 2 is newer than this version of Pointsman"),
        ("pointsman: ${F:-3}\nname: a\n", "shop.yaml:1:12: format 3 is newer than this version of Pointsman"),
        ("pointsman: true\nname: a\n", "shop.yaml:1:12: 'pointsman' cannot be true"),
        (HEAD + "backends: [a]\n", "shop.yaml:3:11: 'backends' must be a mapping of names to values, not [\"a\"]"),
        (HEAD + "backends: {a: }\n", "shop.yaml:3:14: 'a' must be a mapping of fields to values, not null"),
        (HEAD + "backends: {'': {code: m:A}}\n", "shop.yaml:3:12: the name of one of backends '' must be 1-200"),
        (HEAD + "instance: {http: {middlewares: []}}\n", "shop.yaml:3:19: middlewares are objects"),
        (HEAD + "instance: {console: {prot: 1}}\n", "shop.yaml:3:22: ConsoleOptions has no field 'prot'"),
        (HEAD + "instance: {console: {port: 1e9}}\n", "shop.yaml:3:28: "),
        (HEAD + "instance: {console: {host: 0.0.0.0}}\n", "shop.yaml:3:21: host of ConsoleOptions is '0.0.0.0', which"),
        (HEAD + "instance: {name: a/b}\n", "shop.yaml:3:18: instance name 'a/b' is not 1-64 characters"),
    ],
)  # fmt: skip
def test_files_that_are_refused(tmp_path, text, line):
    """What is no configuration file, or one of a newer format, is refused in a line (CF2)."""
    assert lines_of(tmp_path, text)[0].startswith(line)


def test_toml_problems_have_no_place(tmp_path):
    """In TOML a problem names the file and what is wrong (CF2)."""
    text = 'pointsman = 1\nname = "shop"\n[backends.a]\ncod = "m:A"\n'
    assert lines_of(tmp_path, text, suffix="toml")[0].startswith("shop.toml: backend 'a' has no")


def test_shares(tmp_path):
    """Shares are numbers or percents; those of traffic sum to 1, as TR1 says (CF1, CF2, TR1)."""
    backends = HEAD + "backends: {a: {code: m:A}, b: {code: m:B}}\nendpoints: {e: {traffic: {a: %s, b: %s}}}\n"
    for one, other in ((0.25, "75%"), ("2.5 %", 0.975), ('"0.3"', 0.7), (1, "0%"), ("33.33%", "66.67%")):
        assert config_of(tmp_path, backends % (one, other))
    for one, other in ((0.5, 0.6), ("110%", "-10%"), ("half", 0.5), (True, 0), (-0.5, 1.5)):
        assert lines_of(tmp_path, backends % (one, other))[0].startswith("shop.yaml:4:")


def test_the_example_is_right(tmp_path):
    """The example of the documentation is valid; its variable is taken from the environment (CF1, CF3)."""
    config = config_of(tmp_path, EXAMPLE, {"HUB_TOKEN": "secret"})
    assert config.owner == "shop"
    assert config.folders == (str(tmp_path),)
    assert config.section.backends["ranker-v2"].ray_actor_options == {"env_vars": {"HUB": "secret"}}
    assert config.instance_options() == {"http_options": {"port": 8000}, "console_port": 8070}


def test_options_of_the_instance(tmp_path):
    """Paths in a file are relative to its folder, and its options are those of ``start`` (CF1, CF14)."""
    text = HEAD + (
        "python_path: [lib, /opt/models]\n"
        "instance:\n"
        "  state_dir: state\n"
        "  metrics_export_port: null\n"
        "  num_cpus: ${CPUS}\n"
        "  http: {tls: {cert: cert.pem, key: /etc/key.pem, password: secret}}\n"
        "  console: {port: '${CPUS}', token_file: tokens}\n"
    )
    config = config_of(tmp_path, text, {"CPUS": "4"})
    assert config.folders == (str(tmp_path), str(tmp_path / "lib"), "/opt/models")
    tls = {"cert": str(tmp_path / "cert.pem"), "key": "/etc/key.pem", "password": "secret"}
    assert config.instance_options() == {
        "state_dir": str(tmp_path / "state"),
        "metrics_export_port": None,
        "num_cpus": 4.0,
        "http_options": {"tls": tls},
        "console_port": 4,
        "console_options": {"token_file": str(tmp_path / "tokens")},
    }


def test_no_secret_is_shown(tmp_path):
    """No value of ``env_vars`` is in the text of a problem, whatever is wrong with it (CF3)."""
    for options in (
        "{env_vars: [s3cret]}",
        "{env_vars: {A: [s3cret]}}",
        "{env_vars: {'A=': s3cret}}",
        "{env_vars: {A: s3cret}, override_environment_variables: {A: s3cret}}",
        "{runtime_env: {env_vars: {A: {b: s3cret}}}}",
        "{runtime_env: {env_vars: {A: s3cret}, pip: [x]}}",
        '{env_vars: {A: "s3cret\\0"}}',
        "[{env_vars: {A: s3cret}}]",
        "{runtime_env: [{env_vars: {A: s3cret}}]}",
        "{runtime_env: {env_vars: s3cret}}",
        "{num_cpus: {env_vars: s3cret}}",
        "'env_vars: s3cret'",
        "{runtime_env: [s3cret]}",
    ):
        found = lines_of(tmp_path, HEAD + f"backends: {{a: {{code: m:A, ray_actor_options: {options}}}}}\n")
        assert "s3cret" not in "".join(found), found


def test_two_endpoints_with_one_route(tmp_path):
    """They are refused before anything comes up, also if only names of parameters differ (CF2)."""
    routes = {"a": "/x", "b": "'/y/{n}'", "c": "/x", "d": "'/y/{m}'", "e": "/x/z"}
    endpoints = "".join(f"  {name}: {{backend: m, route: {route}}}\n" for name, route in routes.items())
    assert lines_of(tmp_path, HEAD + f"backends: {{m: {{code: m:A}}}}\nendpoints:\n{endpoints}") == [
        "shop.yaml:7:26: route '/x' of endpoint 'c' is that of 'a', too; give it another",
        "shop.yaml:8:26: route '/y/{m}' of endpoint 'd' is that of 'b', too; give it another",
    ]


def test_no_password_is_shown(tmp_path):
    """Nor is that of a key of TLS, wherever it stands by mistake (CF3)."""
    for http in ("[{tls: {password: s3cret}}]", "{tls: [s3cret]}", "{tls: {cert: [], password: [s3cret]}}"):
        found = lines_of(tmp_path, HEAD + f"instance: {{http: {http}}}\n")
        assert "s3cret" not in "".join(found), found


def test_numbers_that_nothing_can_hold(tmp_path):
    """A number of 300 digits, or one that is written as a text, is refused in a line of readable length (CF2)."""
    for long in (f"'{'9' * 3000}'", "1e30", f"{'9' * 300}"):
        text = (
            f"backends: {{a: {{code: m:A, config: {{num_replicas: {long}, max_surge: {long}}}}}}}\n"
            f"endpoints: {{e: {{traffic: {{a: {long}}}}}}}\n"
        )
        found = lines_of(tmp_path, HEAD + text)
        assert len(found) == 3
        assert max(map(len, found)) < 1100
    with pytest.raises(ValueError, match="num_cpus is larger than any float"):
        parse_actor_options({"num_cpus": 9**400})
    endpoint = "endpoints: {e: {backend: a, max_body_bytes: 1e30}}"
    assert "max_body_bytes" in lines_of(tmp_path, HEAD + f"backends: {{a: {{code: m:A}}}}\n{endpoint}\n")[0]


# --- no drift -------------------------------------------------------------------------------------------------


def parameters(function, *without):
    return set(inspect.signature(function).parameters) - {"self", *without}


def test_the_fields_are_the_arguments():
    """All that ``create_backend``, ``create_endpoint`` and ``start`` take, a file can say (CF1)."""
    of_backends = parameters(Client.create_backend, "backend_tag", "func_or_class", "actor_init_args")
    assert set(BackendSection.model_fields) == of_backends | {"code", "args", "version"}
    of_endpoints = parameters(Client.create_endpoint, "endpoint_name")
    of_traffic = {"traffic", "initial_traffic", "shadows", "pins", "custom"}
    assert set(EndpointSection.model_fields) == of_endpoints | of_traffic
    parts = ("http_host", "http_port", "http_middlewares", "http_options", "console_port", "console_options")
    of_start = parameters(start, "detached", *parts)
    assert set(InstanceSection.model_fields) == of_start | {"http", "console"}


def test_the_schema_is_one(tmp_path):
    """An editor that knows JSON Schema finds the example right, and what is wrong in another file (CF4)."""
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)

    def complaints(text: str) -> list[str]:
        return [error.message for error in validator.iter_errors(parse("shop.yaml", text.encode(), ".yaml").value)]

    assert not complaints(EXAMPLE)
    assert not complaints(EXAMPLE.replace("num_replicas: 2", "num_replicas: '${N}'").replace("8000", "'${PORT:-1}'"))
    assert complaints(EXAMPLE.replace("num_replicas", "num_replica"))
    assert complaints(EXAMPLE.replace("num_replicas: 2", "num_replicas: 0"))
    assert complaints(EXAMPLE.replace("pointsman: 1", "pointsman: 2"))
    assert complaints(EXAMPLE.replace("requirements:", "requirement:"))
    assert set(BackendConfig.model_fields) <= set(schema["$defs"]["BackendConfig"]["properties"])
    fields = set(HTTPOptions.model_fields) - {"middlewares"}
    assert set(schema["$defs"]["HTTPOptions"]["properties"]) == fields
    described = [ConfigSection, BackendSection, EndpointSection, InstanceSection]
    assert all(field.description for section in described for field in section.model_fields.values())


PAGE = (Path(__file__).parents[2] / "docs/configuration.md").read_text()


@pytest.mark.parametrize("section", [ConfigSection, BackendSection, EndpointSection, InstanceSection])
def test_the_page_has_every_field(section):
    """Whoever looks a field up finds it on the page, and none that there is not (CF1)."""
    table = PAGE.partition(f"<!-- fields of {section.__name__} -->\n\n")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(section.model_fields)


def test_the_page_has_the_example():
    """The example of the page is the one that is tested (CF1)."""
    assert f"```yaml\n{EXAMPLE}```" in PAGE
