"""The options of `start`, as they are on the command line."""

from __future__ import annotations

import inspect
import json
import re
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

import pointsman as serve
from pointsman.cli.main import PANELS, app
from pointsman.cli.options import Given, parse_settings, takes_start_options
from pointsman.client.listening import DEFAULT_CONSOLE_PORT
from pointsman.client.locking import lock_settings, restart_options
from pointsman.config import ConsoleOptions, HTTPOptions
from pointsman.flags import HTTP_FLAGS, START_FLAGS, Flag, fields_of, words_of

EVERY = (*HTTP_FLAGS, *START_FLAGS)
#: Arguments of `start` that commands have as options of their own, and the deprecated ones.
OTHERS = {"detached", "name", "address", "http_options", "http_host", "http_port", "http_middlewares"}


def test_every_option_of_start_is_on_the_command_line():
    """Whatever `start` takes in Python, `pointsman start` and `run` take as an option, and nothing else (RN1)."""
    http = {flag.field.partition(".")[0] for flag in HTTP_FLAGS}
    assert http == set(HTTPOptions.model_fields)
    start = {flag.field.partition(".")[0] for flag in START_FLAGS}
    assert start == set(inspect.signature(serve.start).parameters) - OTHERS
    page = {flag.field.partition(".")[2] for flag in START_FLAGS if flag.field.startswith("console_options.")}
    assert page == set(ConsoleOptions.model_fields)
    assert len({flag.name for flag in EVERY}) == len(EVERY)


@pytest.mark.parametrize("flag", EVERY, ids=lambda flag: flag.flag)
def test_help_shows_the_default(flag: Flag):
    """The default that the help of an option shows is that of the field (RN1)."""
    field, _, of_console = flag.field.partition(".")
    if flag.field == "console_port":  # in Python there is none
        default = DEFAULT_CONSOLE_PORT
    elif flag in START_FLAGS and of_console:
        default = ConsoleOptions.model_fields[of_console].default
    elif flag in HTTP_FLAGS:
        default = HTTPOptions.model_fields[field].default
    else:
        default = inspect.signature(serve.start).parameters[field].default
    if flag.kind == "off":
        assert default is True
    elif flag.kind == "switch":
        assert default is False
    elif flag.default:
        shown = default.value if hasattr(default, "value") else default
        assert float(flag.default) == shown if flag.kind in ("int", "number") else flag.default == shown
    else:
        assert default in (None, []) or flag.flag == "--allowed-host"


@pytest.mark.parametrize("command", ["start", "run", "serve"])
def test_commands_that_start_an_instance_have_all_of_them(command: str):
    """`start`, `run` and `serve` show each option in their help (RN1)."""
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).stdout
    words = set(re.findall(r"--[a-z0-9-]+", shown))
    assert {flag.flag for flag in EVERY} <= words


def given_by(*words: str) -> Given:
    """What a command gets."""
    got: list[Given] = []
    program = typer.Typer()

    @program.command()
    @takes_start_options
    def command(*, given: Given) -> None:
        got.append(given)

    done = CliRunner().invoke(program, list(words))
    assert done.exit_code == 0, done.output
    return got[0]


def test_options_become_arguments_of_start():
    """Numbers, lists, amounts and JSON of the command line are what `start` takes in Python (RN1)."""
    words = "--port 0 --no-docs --debug --tls-cert c.pem --tls-key k.pem --allowed-host a --allowed-host b"
    more = "--access-log 0.5 --num-cpus 2 --resource slots=4 --resource pens=0.5 --metrics-export-port -1"
    http, start = given_by(*words.split(), *more.split(), "--cors", '{"allow_origins": ["*"]}')
    assert http == {
        "port": 0,
        "docs": False,
        "debug": True,
        "tls": {"cert": "c.pem", "key": "k.pem"},
        "allowed_hosts": ["a", "b"],
        "access_log": 0.5,
        "cors": {"allow_origins": ["*"]},
    }
    assert start == {"num_cpus": 2.0, "resources": {"slots": 4.0, "pens": 0.5}, "metrics_export_port": None}
    assert given_by() == ({}, {})


def test_an_instance_that_stops_says_all_its_options():
    """The command that starts an instance again has every option that it was started with (IN12)."""
    http = HTTPOptions(
        debug=True, docs=False, request_timeout_s=5, allowed_hosts=["a", "b"], cors={"allow_origins": ["*"]}
    )
    words = restart_options(http, lock_settings(http, None))
    assert words == (
        *("--request-timeout-s", "5", "--debug", "--no-docs"),
        *("--cors", '{"allow_origins": ["*"]}', "--allowed-host", "a", "--allowed-host", "b"),
    )
    values: dict[str, Any] = {"num_cpus": 2.0, "resources": {"slots": 4.0}, "client_in_replicas": False}
    assert words_of(START_FLAGS, values) == ("--num-cpus", "2", "--resource", "slots=4", "--no-client-in-replicas")
    assert restart_options(HTTPOptions(), lock_settings(HTTPOptions(), None)) == ()


def test_what_is_not_given_is_left_to_start():
    """Options that I leave out have the defaults of `start`, wherever those change (RN1)."""
    assert fields_of(HTTP_FLAGS, {"debug": False, "allowed_host": [], "http_port": None, "access_log": 0.0}) == {
        "access_log": 0.0
    }


def test_settings_are_json_or_text():
    """`--set` takes numbers, lists and objects as JSON, and what is no JSON as text (RN1)."""
    said = parse_settings(["num_replicas=2", "http_methods=*", 'user_config={"a": "b=c"}'], "--set")
    assert said == {"num_replicas": 2, "http_methods": "*", "user_config": {"a": "b=c"}}


@pytest.mark.parametrize("texts", [["num_replicas"], ["=2"], ["a=1", "a=2"]])
def test_a_setting_without_a_field_is_refused(texts: list[str]):
    """A setting that names no field, or one twice, is bad usage, and the text has it (RN1)."""
    with pytest.raises(typer.BadParameter, match=r"--set"):
        parse_settings(texts, "--set")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--http-port", "65536"], "65536"),
        (["--http-location", "Nowhere"], "'HeadOnly'"),
        (["--drain-delay", "-1"], "drain_delay_s"),
        (["--metrics-export-port", "-2"], "nor -1 for none"),
        (["--name", "../escape"], "'../escape'"),
    ],
)
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_value_that_no_instance_can_have_is_bad_usage(words: list[str], told: str, log_format: str):
    """A port, location, time or name that cannot be is one line, as the other lines are, and exit code 2: a service
    manager need not try again (RN1, PK5)."""
    program = typer.Typer()

    @program.command()
    @takes_start_options
    def command(*, name: Annotated[str, typer.Option("--name")] = "default", given: Given) -> None:
        raise AssertionError("it has begun")

    done = CliRunner().invoke(program, [*words, "--log-format", log_format])
    assert done.exit_code == 2
    (line,) = done.output.splitlines()
    assert told in (line.removeprefix("pointsman: ") if log_format == "text" else json.loads(line)["message"])


def test_help_groups_the_commands_and_begins_with_run():
    """`pointsman` alone shows all commands by purpose, those of a first day on top (RN1)."""
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    grouped = [name for names in PANELS.values() for name in names.split()]
    assert len(grouped) == len(set(grouped)) == len(app.registered_commands) + len(app.registered_groups)
    assert all(title in shown for title in PANELS)
    assert re.findall(r"│ ([a-z][a-z-]+) ", shown)[:4] == ["run", "serve", "start", "deploy"]
