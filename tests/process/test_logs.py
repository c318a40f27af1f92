"""What the processes of an instance log, as whoever started it sees it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import WAIT_S

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
PROGRAM = """
import logging
import time
import urllib.request

import pointsman as serve

log = logging.getLogger("my.model")


def sync(request):
    log.warning("sync here", extra={{"taken": 1}})
    log.info("an id of my own", extra={{"request_id": "mine", "fields": "x"}})
    return "ok"


async def plain_async(request):
    log.warning("async here")
    return "ok"


@serve.accept_batch
def batch(requests):
    log.warning("batch here")
    return ["ok"] * len(requests)


def slow(request):
    time.sleep(0.25)
    return "ok"


def outer(request):
    log.warning("outer here")
    return serve.connect().get_handle("echo").remote().result()


def echo(request):
    log.warning("echo here")
    return request.headers.get("traceparent")


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
with serve.start(http_options={{"port": 0, {options}}}, metrics_export_port={port}, {start}) as client:
    for code in (sync, plain_async, batch, slow, outer, echo):
        client.create_backend(code.__name__, code)
        client.create_endpoint(code.__name__, backend=code.__name__, route=f"/{{code.__name__}}")
    for name in ("sync", "plain_async", "batch", "slow", "outer"):
        request = urllib.request.Request(f"{{client.http_address}}/{{name}}?q=1")
        request.add_header("x-request-id", f"id-of-{{name}}")
        request.add_header("traceparent", TRACE)
        answer = urllib.request.urlopen(request).read().decode()
        assert answer == (TRACE if name == "outer" else "ok"), answer
"""


def run(tmp_path: Path, *, options: str = "", start: str = "", port: int | None = 0) -> list[str]:
    """Lines of standard error of a program that asks each backend once."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(options=options, start=start, port=port))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def test_each_line_of_user_code_names_its_request(tmp_path):
    """I look for one request's id and find every line that was logged for it: sync, async, batched, and by the backend
    that another one called (CO7). Access lines are off unless asked for."""
    lines = run(tmp_path)
    for kind in ("sync", "async", "batch"):
        name = "plain_async" if kind == "async" else kind
        [line] = [line for line in lines if f"] {kind} here" in line]
        assert re.fullmatch(rf"\[{name}#\w{{6}}\] {TIME} WARNING my.model: \[id-of-{name}\] {kind} here", line)
    for kind in ("outer", "echo"):
        assert any(f"[id-of-outer] {kind} here" in line for line in lines)
    assert not any("access" in line for line in lines)


@pytest.mark.parametrize("port", [0, None], ids=["with metrics", "without"])
def test_json_lines(tmp_path, port):
    """A log collector gets one object per line, with backend, replica and request, and where a slow one's time went."""
    lines = run(tmp_path, options='"access_log": 1.0, "slow_request_s": 0.2', start='log_format="json"', port=port)
    read: list[dict[str, Any]] = [json.loads(line) for line in lines if line.startswith("{")]
    said = [line for line in read if line["message"] == "sync here"]
    assert [(line["request_id"], line["backend"]) for line in said] == [("id-of-sync", "sync")]
    assert said[0]["replica"].startswith("sync#")
    requests = {line["request_id"]: line for line in read if line["logger"] in ("access", "pointsman.slow")}
    assert set(requests) == {f"id-of-{name}" for name in ("sync", "plain_async", "batch", "slow", "outer")}
    assert requests["id-of-sync"]["target"] == "/sync?q=1"
    assert requests["id-of-sync"]["status"] == 200
    slow = requests["id-of-slow"]
    assert slow["logger"] == "pointsman.slow"
    assert slow["breakdown_ms"]["processing"] >= 250
    assert all(ms >= 0 for ms in slow["breakdown_ms"].values())
    assert sum(slow["breakdown_ms"].values()) == pytest.approx(1000 * slow["seconds"], abs=2.0)


@pytest.mark.parametrize(
    ("options", "start", "error"),
    [
        ("", 'log_format="xml"', "log_format 'xml' is unknown"),
        ('"access_log": 1.5', "", "access_log of HTTPOptions is 1.5"),
        ('"slow_request_s": 0', "", "slow_request_s of HTTPOptions is 0"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, options, start, error):
    """A mistake in the settings of the log is told before anything starts."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(options=options, start=start, port=0))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 1
    assert error in done.stderr
