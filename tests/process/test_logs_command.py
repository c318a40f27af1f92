"""`pointsman logs`, as its users meet it: what was said, by whom, in a pipe and on a terminal."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import pointsman as serve
from pointsman.engine.local.folder import InstanceFolder
from pointsman.telemetry.logs import FORMATS
from tests.conftest import http_for, wait_until
from tests.process.test_cli import PROGRAM, assert_one_line, pointsman, printed_by
from tests.process.test_top import on_a_terminal, until

log = logging.getLogger("my.model")


def fail(request: Any) -> None:
    log.warning("about to fail")
    raise ValueError("no model")


def outer(request: Any) -> Any:
    log.warning("asking")
    return serve.connect().get_handle("fail").remote().result()


def talk(request: Any) -> str:
    print("printed")
    return "ok"


@pytest.fixture(scope="module", params=FORMATS)
def noisy(request: pytest.FixtureRequest) -> Iterator[serve.Client]:
    """A detached instance some of whose code fails, in each format."""
    name = f"noisy-{request.param}"
    http = {"port": 0, "access_log": 1.0}
    with serve.start(
        True, name=name, http_options=http, metrics_export_port=None, log_format=request.param, num_cpus=8
    ) as client:
        for code in (fail, outer, talk):
            client.create_backend(code.__name__, code, config={"num_replicas": 2 if code is fail else 1})
            client.create_endpoint(code.__name__, backend=code.__name__, route=f"/{code.__name__}")
        yield client


def name_of(client: serve.Client) -> str:
    return str(client.status()["name"])


def asked(client: serve.Client, *paths: str) -> str:
    """Ask all of them under one request id, which is returned."""
    request_id = uuid.uuid4().hex
    with http_for(client) as http:
        for path in paths:
            http.get(path, headers={"x-request-id": request_id})
    return request_id


def logs(client: serve.Client, *options: str) -> list[str]:
    return printed_by("logs", "--name", name_of(client), *options).splitlines()


def until_logged(client: serve.Client, request_id: str, text: str) -> list[str]:
    """What is logged of a request, once that is there."""
    wait_until(lambda: any(text in line for line in logs(client, "--request", request_id)), what=text)
    return logs(client, "--request", request_id)


def who_said(line: str) -> str:
    if line.startswith("{"):
        said = json.loads(line)
        return str(said.get("replica", said["process"]))
    return line[1:].partition("]")[0]


def test_one_request_is_followed_through_all_processes(noisy: serve.Client) -> None:
    """By its id I find what a request was answered, what my code said of it in both backends, and the exception: once,
    under the replica that raised it (HE1, CO7)."""
    request_id = asked(noisy, "/outer")
    lines = until_logged(noisy, request_id, "GET /outer -> 500")
    by = [who_said(line).partition("#")[0] for line in lines]
    assert set(by) == {"ingress", "outer", "fail"}
    assert sum("raised ValueError: no model" in line for line in lines) == 1
    assert {who for who, line in zip(by, lines, strict=True) if "no model" in line or "Traceback" in line} == {"fail"}
    assert sum("Traceback" in line for line in lines) == 1
    order = [next(i for i, line in enumerate(lines) if text in line) for text in ("asking", "about to fail", "raised")]
    assert order == sorted(order)


def test_handles_of_the_driver_leave_their_trace_too(noisy: serve.Client) -> None:
    """An exception that my script gets through a handle is in the log of the replica that raised it."""
    before = sum("raised ValueError" in line for line in logs(noisy, "fail"))
    with pytest.raises(ValueError, match="no model"):
        noisy.get_handle("fail").remote().result()
    wait_until(lambda: sum("raised ValueError" in line for line in logs(noisy, "fail")) == before + 1)


def test_a_backend_is_all_of_its_replicas(noisy: serve.Client) -> None:
    """With a backend's name I see all of its replicas, and with a tag one of them; what they print as well."""
    asked(noisy, "/talk")
    tags = [replica["tag"] for replica in noisy.status()["backends"]["fail"]["replicas"]]
    assert {who_said(line) for line in logs(noisy, "fail") if "output of" not in line} <= set(tags)
    assert {line.partition("output of ")[2].split('"')[0] for line in logs(noisy, "fail")} - {""} == set(tags)
    [first, *_] = logs(noisy, "--replica", tags[0])
    assert f"output of {tags[0]}" in first
    wait_until(lambda: any("printed" in line for line in logs(noisy, "talk")), what="what it printed")
    assert len(logs(noisy, "-n", "2")) >= 2


def test_names_that_are_not_there(noisy: serve.Client) -> None:
    """A mistyped name is one sentence with the nearest one (IN7)."""
    name = name_of(noisy)
    assert_one_line(pointsman("logs", "fial", "--name", name), "'fial'", "did you mean 'fail'")
    assert_one_line(pointsman("logs", "--replica", "x", "--name", name), "'x'", "fail#")
    assert_one_line(pointsman("logs", "--name", "nowhere"), "'nowhere'", name)
    assert logs(noisy, "--request", "no-such-request") == []


def test_a_controller_that_hangs_hides_no_logs(noisy: serve.Client) -> None:
    """The logs can be read while nothing answers, which is when they are needed."""
    controller = psutil.Process(noisy.status()["controller_pid"])
    name = name_of(noisy)
    controller.suspend()
    try:
        shown = pointsman("logs", "fail", "--name", name)
    finally:
        controller.resume()
    assert shown.returncode == 0
    assert "output of fail#" in shown.stdout


def test_a_reader_may_leave(noisy: serve.Client) -> None:
    """Piped into head it ends without a word, though it would follow for ever."""
    command = f"'{PROGRAM}' logs -f --name {name_of(noisy)} | head -1"
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as piped:
        while piped.poll() is None:
            asked(noisy, "/talk")  # who has nothing to say does not notice that nobody listens
        shown, errors = piped.communicate()
    assert (shown.count("\n"), errors) == (1, "")


def test_a_terminal_follows_until_ctrl_c(noisy: serve.Client) -> None:
    """With -f I see what comes, also of a replica that was started meanwhile, until Ctrl-C, which is quiet."""
    name = name_of(noisy)
    with on_a_terminal("logs", "-f", "fail", "--name", name) as (following, terminal):
        until(terminal, b"output of fail#", count=2)
        os.kill(noisy.status()["backends"]["fail"]["replicas"][0]["pid"], signal.SIGKILL)
        until(terminal, b"output of fail#")
        asked(noisy, "/fail")
        shown = until(terminal, b"raised ValueError: no model")
        following.send_signal(signal.SIGINT)
        assert following.wait() == 0
    assert b"about to fail" in shown


def test_logs_are_there_after_the_end(name: str, tmp_path: Path) -> None:
    """After my instance was killed I read its logs by its name, and after any end by the folder of its state, where
    the command's answer sends me."""
    state = tmp_path / "state"
    http = {"location": None}
    client = serve.start(True, name=name, http_options=http, metrics_export_port=None, state_dir=state)
    client.create_backend("talk", talk)
    folder = InstanceFolder.of(name)
    os.kill(folder.about().pid, signal.SIGKILL)
    folder.wait_for_end()
    for which in (("--name", name), ("--state-dir", str(state))):
        shown = pointsman("logs", "talk", "-f", *which)
        assert (shown.returncode, shown.stderr) == (0, "The instance has ended.\n")
        assert "output of talk#" in shown.stdout
    folder.remove()  # as other ends do
    assert_one_line(pointsman("logs", "--name", name), f"'{name}' is running", "pointsman logs --state-dir FOLDER")
    assert "output of talk#" in pointsman("logs", "--state-dir", str(state)).stdout
    assert_one_line(pointsman("logs", "tall", "--state-dir", str(state)), "'tall'", "did you mean 'talk'")
    assert_one_line(pointsman("logs", "--state-dir", str(tmp_path)), str(tmp_path), "state_dir")
    assert_one_line(pointsman("logs", "--state-dir", str(state), "--address", "auto"), "--state-dir", "--address")


def test_following_ends_with_the_instance(name: str) -> None:
    """When the instance ends, so does -f, after its last words; names of backends may be whatever they like (S12)."""
    odd = f"..{'ä' * 150}"
    client = serve.start(True, name=name, http_options={"location": None}, metrics_export_port=None)
    client.create_backend(odd, talk)
    client.create_endpoint("talk", backend=odd)
    following = subprocess.Popen(
        [PROGRAM, "logs", odd, "-f", "--name", name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert following.stdout is not None
    assert f"output of {odd}#" in following.stdout.readline()
    assert client.get_handle("talk").remote().result() == "ok"
    client.shutdown()
    shown, errors = following.communicate()
    assert f"[{odd}#" in shown
    assert "printed" in shown
    assert (following.returncode, errors) == (0, "The instance has ended.\n")
