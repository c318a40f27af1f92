"""The command line as its users meet it: real processes, their output and their exit codes."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from rich.console import Console
from typer.testing import CliRunner

import pointsman as serve
from pointsman.cli.common import one_line
from pointsman.cli.lines import FAILURES
from pointsman.cli.main import app
from pointsman.cli.tables import show_changes, show_status
from tests.conftest import WAIT_S, family, wait_until

PROGRAM = str(Path(sys.executable).with_name("pointsman"))
FREE_PORTS = ("--http-port", "0", "--metrics-export-port", "0", "--console-port", "-1")
"""Tests run side by side, and none of them has a port of its own."""
ONLY_HTTP = ("--metrics-export-port", "-1", "--console-port", "-1")


def pointsman(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=WAIT_S, check=False)


def start_detached(name: str, *options: str) -> str:
    started = pointsman("start", "--detached", "--name", name, *FREE_PORTS, *options)
    assert started.returncode == 0, started.stderr
    return started.stdout


def printed_by(*arguments: str) -> str:
    """What a command prints that succeeds. It runs in this process, since each new one imports for a third of a second;
    what fails, starts or ends runs as a process of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [PROGRAM, *arguments])  # the history of traffic names it
        done = CliRunner().invoke(app, [*arguments])
    assert (done.exception, done.exit_code, done.stderr) == (None, 0, "")
    return done.stdout


def fails(*arguments: str) -> subprocess.CompletedProcess[str]:
    """How a command fails, with the code and the line that ``main`` gives; in this process, for the same reason."""
    done = CliRunner().invoke(app, [*arguments])
    if isinstance(done.exception, FAILURES):
        return subprocess.CompletedProcess(arguments, 1, done.stdout, f"pointsman: {one_line(done.exception)}\n")
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def status_of(name: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(printed_by("status", "--name", name, "--json"))
    return report


def assert_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """It failed with one line that says why, and said nothing else."""
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("pointsman: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


@pytest.fixture
def detached(name: str) -> Iterator[str]:
    """Name of a running detached instance."""
    start_detached(name)
    yield name
    pointsman("shutdown", "--name", name)


@pytest.fixture
def foreground(name: str) -> Iterator[subprocess.Popen[str]]:
    """`pointsman start` without --detached, once it has said that it is ready."""
    process = subprocess.Popen(
        [PROGRAM, "start", "--name", name, *FREE_PORTS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert f"Instance {name!r} is ready at http://" in process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def assert_gone(processes: dict[int, psutil.Process], name: str, runtime_folder: Path) -> None:
    wait_until(lambda: not any(p.is_running() for p in processes.values()), what="every process has ended")
    assert not (runtime_folder / "pointsman" / name).exists()


def test_detached_instance_from_start_to_shutdown(name: str, private_runtime_folder: Path) -> None:
    """I start an instance, look at it and end it, all from a shell, and then it is really gone (IN6, IN12, IN15)."""
    said = start_detached(name)
    report = status_of(name)
    address = report["http"]["address"]
    assert report["name"] == name
    assert f"Instance {name!r} is ready at {address}" in said
    assert f"pointsman status --name {name}" in said
    assert httpx.get(f"{address}/-/healthz", timeout=WAIT_S).status_code == 200
    controller = psutil.Process(report["controller_pid"])

    ended = pointsman("shutdown", "--name", name)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert_gone({controller.pid: controller}, name, private_runtime_folder)
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)
    assert_one_line(pointsman("shutdown", "--name", name), name)


def test_status_shows_endpoints_backends_and_replicas(detached: str) -> None:
    """I see at a glance who answers whom and what state it is in, whatever characters my names have (LC10, CL1)."""

    def echo(request: serve.Request) -> str:
        return "hello"

    client = serve.connect(detached)
    tags = {"[bold]old": 0.75, "team/new": 0.25}
    for tag in tags:
        client.create_backend(tag, echo)
    client.create_endpoint("team/greet", backend="team/new", route="/greet/{who}", methods=["POST", "PUT"])
    split = [f"{tag}={weight:.0%}" for tag, weight in tags.items()]
    assert pointsman("traffic", "set", "team/greet", *split, "--name", detached).returncode == 0
    assert client.get_traffic("team/greet")["weights"] == tags

    shown = pointsman("status", "--name", detached)

    assert (shown.returncode, shown.stderr) == (0, "")
    assert "Traceback" not in shown.stdout
    report = status_of(detached)
    for text in ("/greet/{who}", "POST PUT", " 75 % [bold]old", " 25 % team/new", "RUNNING", "1/1", "READY"):
        assert text in shown.stdout
    assert f"controller pid {report['controller_pid']}" in shown.stdout
    for backend in report["backends"].values():
        for replica in backend["replicas"]:
            assert replica["tag"] in shown.stdout
            assert str(replica["pid"]) in shown.stdout
    changes = pointsman("history", "--name", detached, "--json")
    assert json.loads(changes.stdout) == client.history()
    assert client.history()[-1]["change"] == "traffic [bold]old 75 %, team/new 25 %"
    assert "pointsman, pid" in client.history()[-1]["by"]


def test_status_shows_one_line_of_a_failure() -> None:
    """A backend whose constructor failed shows why, on one line that cannot mess up my terminal (LC10)."""
    failure = {"reason": "x", "text": "ValueError: no \x1b[31mmodel\nmore", "traceback": "Traceback ...", "failures": 3}
    backend = {"state": "UNHEALTHY", "replicas_wanted": 2, "replicas_running": 0, "replicas": [], "failure": failure}
    status = {
        "name": "x",
        "controller_pid": 1,
        "metrics": [],
        "http": {"address": None, "ingresses": []},
        "endpoints": {},
        "backends": {"b": backend},
    }
    output = io.StringIO()
    show_status(status, Console(file=output, width=120))
    assert "UNHEALTHY" in output.getvalue()
    assert "0/2" in output.getvalue()
    assert "ValueError: no ?[31mmodel (3 times)" in output.getvalue()
    assert "more" not in output.getvalue()
    assert "Traceback" not in output.getvalue()


def test_status_shows_what_code_runs() -> None:
    """A backend shows what runs, in which version, and for how long, whatever of that is known (LC10)."""
    usual = {"state": "RUNNING", "replicas_wanted": 1, "replicas_running": 1, "replicas": [], "failure": None}
    since = (datetime.now(timezone.utc) - timedelta(hours=3)).isoformat(timespec="milliseconds")
    backends = {
        "a": {"code": "ranking:Ranker", "digest": "d" * 12, "version": "2", "commit": f"{'c' * 40}+", "since": since},
        "b": {"code": "by value: Model", "digest": "e" * 12, "version": "", "commit": "", "since": ""},
        "c": {},
    }
    status = {
        "name": "x",
        "controller_pid": 1,
        "metrics": [],
        "http": {"address": None, "ingresses": []},
        "endpoints": {},
        "backends": {tag: {**usual, **backend} for tag, backend in backends.items()},
    }
    output = io.StringIO()
    show_status(status, Console(file=output, width=120))
    for text in ("ranking:Ranker", "2 cccccccc+", "3 h", "by value: Model", "e" * 12):
        assert text in output.getvalue()
    assert "d" * 12 not in output.getvalue()


def test_history_shows_who_has_changed_what() -> None:
    """The newest change comes first, with who made it; a file's changes have its name (AD7)."""
    change = {"version": 7, "time": "2026-11-28T10:00:00.000+00:00", "by": "anna, deploy.py, pid 7", "owner": ""}
    changes = [
        {**change, "object": "backend/a", "change": "created"},
        {**change, "version": 8, "owner": "shop", "object": "endpoint/\x1b[31me", "change": "traffic a 100 %"},
    ]
    output = io.StringIO()
    show_changes(changes, Console(file=output, width=120))
    shown = output.getvalue()
    assert shown.index("traffic a 100 %") < shown.index("created")
    for text in ("2026-11-28 10:00:00", "anna, deploy.py, pid 7", "shop (anna", "endpoint/?[31me"):
        assert text in shown


def test_status_of_a_cluster_shows_where_metrics_are() -> None:
    """An instance on several nodes shows where each of them serves its metrics (MO6)."""
    status = {
        "name": "x",
        "controller_pid": 1,
        "http": {"address": None, "ingresses": []},
        "metrics": [{"node": node * 28, "address": f"http://{node}:8080"} for node in ("ab", "cd")],
        "endpoints": {},
        "backends": {},
    }
    output = io.StringIO()
    show_status(status, Console(file=output, width=120))
    for node in ("ab", "cd"):
        assert f"{node * 4}   http://{node}:8080/metrics" in output.getvalue()


def test_options_reach_the_instance(name: str, tmp_path: Path) -> None:
    """I can do without HTTP, and say where state is kept (IN10, IN15)."""
    state = tmp_path / "state"
    assert "without an HTTP server" in start_detached(name, "--http-location", "NoServer", "--state-dir", str(state))
    assert status_of(name)["http"] == {"address": None, "locked": False, "tls": False, "ingresses": []}
    assert (state / "state.db").exists()
    assert pointsman("shutdown", "--name", name).returncode == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_foreground_ends_with_a_signal(
    foreground: subprocess.Popen[str], name: str, private_runtime_folder: Path, signum: int
) -> None:
    """I run an instance in a terminal or under systemd, and stopping it leaves nothing behind (IN4, IN15)."""
    processes = family(foreground.pid)
    assert processes
    foreground.send_signal(signum)
    _, errors = foreground.communicate(timeout=WAIT_S)
    assert foreground.returncode == 0
    assert "Traceback" not in errors
    assert_gone(processes, name, private_runtime_folder)


def test_foreground_survives_an_impatient_user(
    foreground: subprocess.Popen[str], name: str, private_runtime_folder: Path
) -> None:
    """Pressing Ctrl-C several times ends it too, and shows no traceback (IN4)."""
    processes = family(foreground.pid)
    assert foreground.stderr is not None
    foreground.send_signal(signal.SIGINT)
    foreground.stderr.readline()  # it says that it has heard the first one
    for _ in range(3):
        foreground.send_signal(signal.SIGINT)
    _, errors = foreground.communicate(timeout=WAIT_S)
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    assert_gone(processes, name, private_runtime_folder)


def test_foreground_ends_when_shut_down_elsewhere(
    foreground: subprocess.Popen[str], name: str, private_runtime_folder: Path
) -> None:
    """An instance in one terminal can be ended from another, which is no failure of the first (IN12)."""
    processes = family(foreground.pid)
    assert pointsman("shutdown", "--name", name).returncode == 0
    foreground.communicate(timeout=WAIT_S)
    assert foreground.returncode == 0
    assert_gone(processes, name, private_runtime_folder)


def test_foreground_says_that_its_supervisor_was_killed(
    foreground: subprocess.Popen[str], name: str, private_runtime_folder: Path
) -> None:
    """When the instance is killed under it, the command fails and tidies up, so that systemd starts it again (IN4)."""
    processes = family(foreground.pid)
    (supervisor,) = psutil.Process(foreground.pid).children()
    supervisor.kill()
    _, errors = foreground.communicate(timeout=WAIT_S)
    assert foreground.returncode == 1
    assert errors.splitlines()[-1] == "pointsman: the instance's supervisor was killed"
    assert_gone(processes, name, private_runtime_folder)


def test_a_port_in_use_is_said_in_one_line(name: str, private_runtime_folder: Path) -> None:
    """I forgot that something else has the port: one line names it, and nothing is left behind (IN1, IN15)."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert_one_line(pointsman("start", "--name", name, "--http-port", port), port, "in use")
        assert_one_line(pointsman("start", "--detached", "--name", name, "--http-port", port), port, "in use")
    assert not (private_runtime_folder / "pointsman" / name).exists()


def test_a_name_in_use_is_said_in_one_line(canary: str) -> None:
    """Starting an instance twice tells me how to end the first, even though its port is taken as well (IN6)."""
    port = status_of(canary)["http"]["address"].rpartition(":")[2]
    again = pointsman("start", "--detached", "--name", canary, "--http-port", port)
    assert_one_line(again, f"pointsman stop --name {canary}")


def test_no_such_instance_names_those_that_there_are(canary: str) -> None:
    """When I mistype a name, I am told which instances run (IN8)."""
    for command in (["status"], ["status", "--json"], ["shutdown"]):
        assert_one_line(pointsman(*command, "--name", "elsewhere"), "'elsewhere'", canary)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["status", "--name", ".hidden"], "'.hidden'"),
        (["start", "--http-port", "0", "--metrics-export-port", "0", "--state-dir", "/proc/no"], "/proc/no"),
        (["start", "--http-port", "0", "--state-dir", ""], "state_dir is empty"),
        (["start", "--http-port", "0", "--state-dir", __file__], f"{__file__} is not a folder"),
        (["logs", "--request", ""], "--request is empty"),
        (["logs", "--state-dir", ""], "--state-dir is empty"),
        (["logs", "--state-dir", __file__], __file__),
    ],
)
def test_a_bad_value_is_said_in_one_line(arguments: list[str], word: str) -> None:
    """A value that cannot be is named, with what would be right, and no traceback (IN7, IN11)."""
    assert_one_line(pointsman(*arguments), word)


def test_help_and_version_load_next_to_nothing() -> None:
    """`pointsman --help` answers at once, since it imports no client, no pydantic and no demo."""
    version = pointsman("--version")
    assert (version.returncode, version.stdout) == (0, f"pointsman {serve.__version__}\n")
    assert all(command in pointsman("--help").stdout for command in ("start", "status", "shutdown", "demo"))
    code = "import sys, pointsman.cli.main; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert not {"pointsman.client", "pydantic", "asyncio", "joblib", "numpy"} & set(loaded.stdout.split())


# Traffic


@pytest.fixture(scope="module")
def canary() -> Iterator[str]:
    """Name of a detached instance with two backends, for commands on traffic."""
    name = "canary"
    start_detached(name)
    client = serve.connect(name)
    for tag in ("old", "new"):
        client.create_backend(tag, _hello)
    yield name
    ended = pointsman("shutdown", "--name", name)
    assert ended.returncode == 0, ended.stderr


def _hello(request: serve.Request) -> str:
    return "hello"


@pytest.fixture
def digits(canary: str, name: str) -> Iterator[str]:
    """An endpoint of its own in that instance."""
    client = serve.connect(canary)
    client.create_endpoint(name, backend="old")
    yield name
    client.delete_endpoint(name)


def traffic(canary: str, *arguments: str) -> str:
    return printed_by("traffic", *arguments, "--name", canary)


def traffic_json(canary: str, *arguments: str) -> Any:
    return json.loads(traffic(canary, *arguments, "--json"))


def test_a_console_beside_an_instance_without_one(canary: str) -> None:
    """My instance was started without a console: `pointsman console` serves one until Ctrl-C, with a link that signs in
    for the role that I say (AD1, CR5)."""
    assert status_of(canary)["console"] is None
    command = [PROGRAM, "console", "--name", canary, "--port", "0", "--role", "view", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        base, _, token = json.loads("".join(process.stdout.readline() for _ in range(3)))["url"].partition("/#token=")
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(base_url=f"{base}/api/v1", headers=headers, timeout=WAIT_S) as page:
            assert page.get("/me").json()["role"] == "view"
            assert page.get("/endpoints").json() == serve.connect(canary).list_endpoints()
            assert page.post("/endpoints/none/rollback", json={}).status_code == 403
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=WAIT_S) == ("", "")
        assert process.returncode == 0


def test_traffic_from_the_shell(canary: str, digits: str) -> None:
    """I run a canary from a shell: set, try in shadow, look, take back; each command shows what is in force (TR4, SH2,
    SH3)."""
    shown = traffic(canary, "set", digits, "old=99%", "new=1%")
    assert all(text in shown for text in (digits, " 99 % old", "  1 % new", "header:x-serve-shard-key"))
    assert " 25 % new" in traffic(canary, "shadow", digits, "new", "25%")
    policy = serve.connect(canary).get_traffic(digits)
    assert (policy["weights"], policy["shadows"]) == ({"old": 0.99, "new": 0.01}, {"new": 0.25})
    assert traffic_json(canary, "show", digits) == {digits: policy}
    traffic(canary, "set", digits, "old=0.5", "new=0.5")
    assert " 50 % new" in traffic(canary, "show", digits)
    assert " 99 % old" in traffic(canary, "rollback", digits)
    first = traffic_json(canary, "history", digits)[0]
    assert "100 % old" in traffic(canary, "rollback", digits, "--to", str(first["version"]))
    assert "Nothing to change" in traffic(canary, "rollback", digits, "--to", str(first["version"]))
    traffic(canary, "shadow", digits, "new", "0")
    now = traffic_json(canary, "show")
    assert now[digits]["shadows"] == {}
    assert set(now) == set(serve.connect(canary).list_endpoints())


def test_traffic_history_from_the_shell(canary: str, digits: str) -> None:
    """I see who changed the split of last night, newest first, and JSON has all of it (TR1)."""
    traffic(canary, "set", digits, "old=0.25", "new=75%")
    changes = traffic_json(canary, "history", digits)
    assert changes == serve.connect(canary).traffic_history(digits)
    assert [change["weights"] for change in changes] == [{"old": 1.0}, {"old": 0.25, "new": 0.75}]
    assert "pointsman, pid" in changes[-1]["by"]
    shown = traffic(canary, "history", digits)
    assert shown.index("75 % new") < shown.index("100 % old")
    for change in changes:
        assert change["time"][:19].replace("T", " ") in shown
        assert change["change"] in shown


def test_pins_from_the_shell(canary: str, digits: str) -> None:
    """I pin one customer's key, ask why they get what they get, and let go (SA3)."""
    assert "vip -> new" in traffic(canary, "pin", digits, "vip", "new")
    explained = traffic_json(canary, "explain", digits, "--key", "vip")
    assert (explained["backend"], explained["why"]) == ("new", "pin")
    shown = traffic(canary, "pin", digits, "anne", "", "old")
    assert all(text in shown for text in ("vip -> new", "anne -> old", '"" -> old'))
    assert "->" not in traffic(canary, "unpin", digits, "vip", "anne", "")
    shown = traffic(canary, "explain", digits, "--key", "vip")
    assert "old" in shown.splitlines()[0]
    assert "old  it has all the weight" in traffic(canary, "explain", digits)
    traffic(canary, "set", digits, "old=0.5", "new=0.5")
    assert "by weight" in traffic(canary, "explain", digits)


def test_keys_cannot_mess_up_the_terminal(canary: str, digits: str) -> None:
    """A key with control characters, which strangers may choose, is shown without them (LC10)."""
    evil = "\x1b[31mred\r\n\x07\x9b2J"
    client = serve.connect(canary)
    client.pin(digits, evil, "new")
    client.pin(digits, "[bold]markup[/bold]", "new")
    shown = traffic(canary, "pin", digits, evil, "old")
    assert "?[31mred????2J -> old" in shown
    assert "[bold]markup[/bold] -> new" in shown
    for text in (shown, traffic(canary, "show"), traffic(canary, "explain", digits, "--key", evil)):
        assert not [character for character in text if not (character.isprintable() or character == "\n")]
    assert traffic_json(canary, "show", digits)[digits]["pins"][evil] == "old"


def test_many_pins_fit_on_a_screen(canary: str, digits: str) -> None:
    """Of dozens of pinned keys the table shows some and the number of the rest; JSON has them all."""
    client = serve.connect(canary)
    client.pin(digits, [f"key-{number:02}" for number in range(15)], "new")
    assert "and 5 more" in traffic(canary, "show", digits)
    assert len(traffic_json(canary, "show", digits)[digits]["pins"]) == 15


def test_a_policy_of_my_own_from_the_shell(canary: str, digits: str, tmp_path: Path) -> None:
    """I name my own policy's import path; it is looked for where I am, and 'weighted' ends it."""
    (tmp_path / "own_policy.py").write_text("class First:\n    def choose(self, call, split, draw): return 'old'\n")
    command = [PROGRAM, "traffic", "set", digits, "old=0", "new=1", "--name", canary, "--policy"]
    ran = {"capture_output": True, "text": True, "timeout": WAIT_S, "cwd": tmp_path, "check": False}
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([*command, "own_policy:First"], env=environment, **ran)
    assert done.returncode == 0, done.stderr
    assert "by own_policy:First" in done.stdout
    assert serve.connect(canary).get_traffic(digits)["policy"] == "own_policy:First"
    assert "own_policy" not in traffic(canary, "set", digits, "old=0", "new=1", "--policy", "weighted")
    assert_one_line(subprocess.run([*command, "own_policy:Missing"], env=environment, **ran), "Missing")


@pytest.mark.parametrize(
    "arguments",
    [
        ["set", "{endpoint}", "old"],
        ["set", "{endpoint}", "old=much"],
        ["shadow", "{endpoint}", "new", "some"],
        ["rollback", "{endpoint}", "--to", "x"],
        ["pin", "{endpoint}", "key"],
    ],
    ids=" ".join,
)
def test_a_mistyped_traffic_command(canary: str, digits: str, arguments: list[str]) -> None:
    """What cannot be read as a command is a usage error that shows what I wrote, and nothing changes (TR1)."""
    before = serve.connect(canary).get_traffic(digits)
    done = fails("traffic", *(word.format(endpoint=digits) for word in arguments), "--name", canary)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert "Usage" in done.stderr
    assert serve.connect(canary).get_traffic(digits) == before


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["show", "no-such"], "no-such"),
        (["pin", "no-such", "key", "old"], "no-such"),
        (["set", "{endpoint}", "old=0.5", "new=0.6"], "1.1"),
        (["set", "{endpoint}", "neww=1"], "did you mean 'new'"),
        (["shadow", "{endpoint}", "new", "2"], "2"),
        (["rollback", "{endpoint}", "--to", "999999"], "999999"),
        (["pin", "{endpoint}", "x" * 257, "new"], "256"),
        (["pin", "{endpoint}", "\x1b[31mred", "no\x1b[31m"], "no"),
    ],
    ids=lambda value: " ".join(value)[:40].replace("\x1b", "ESC") if isinstance(value, list) else "",
)
def test_a_refused_traffic_command(canary: str, digits: str, arguments: list[str], word: str) -> None:
    """What the instance refuses is one line that names the value, and no traceback (TR1, SH7)."""
    before = serve.connect(canary).get_traffic(digits)
    done = fails("traffic", *(word.format(endpoint=digits) for word in arguments), "--name", canary)
    assert_one_line(done, word)
    assert done.stderr.removesuffix("\n").isprintable()
    assert serve.connect(canary).get_traffic(digits) == before


def test_the_same_backend_twice_is_a_mistake(canary: str, digits: str) -> None:
    """I give one backend two weights by a slip: that is refused, and not silently the last one (TR1)."""
    done = pointsman("traffic", "set", digits, "old=0.5", "old=1", "--name", canary)
    assert done.returncode in (1, 2)
    assert "old" in done.stderr
    assert serve.connect(canary).get_traffic(digits)["version"] == traffic_json(canary, "history", digits)[0]["version"]
