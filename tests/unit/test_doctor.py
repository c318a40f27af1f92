"""pointsman.doctor: what the facts of a machine and an instance mean, and what is kept out of a bundle."""

from __future__ import annotations

import errno
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pointsman.cli.main import app
from pointsman.doctor import bundle, instance
from pointsman.doctor import machine as facts
from pointsman.doctor.bundle import write_bundle
from pointsman.doctor.condition import LOCKED, Condition, Store, judge_instance
from pointsman.doctor.instance import Looked, Said, look_at_instance
from pointsman.doctor.judging import MB, Killed, Machine, judge_machine
from pointsman.doctor.machine import look_at_machine
from pointsman.doctor.redacting import HIDDEN, Redactor, without_texts_of_exceptions
from pointsman.engine.local.folder import About, InstanceFolder
from pointsman.exceptions import ServeException
from tests.loop.load_server import ANSWERS, known_server
from tests.properties import examples

WELL = Machine(
    platform="linux",
    python=(3, 11, 7),
    release="0.1.0",
    compiled=True,
    uvloop="0.21.0",
    open_files=(20_000, 20_000),
    runtime_folder="/run/user/1000/pointsman",
    runtime_fault="",
    runtime_room=1000 * MB,
    longest_socket=98,
    shared_memory=1000 * MB,
    ports={},
    instances=0,
    memory=8000 * MB,
    free_memory=4000 * MB,
    cpus=8,
    cpu_limit=0.0,
    clock=1.8e9,
    ray=(2, 60, 0),
    variables={"LANG": "C.UTF-8"},
    killed=(),
)


def wrong(**changed: Any) -> list[tuple[str, str]]:
    return [(one.check, one.text) for one in judge_machine(WELL._replace(**changed)) if not one.ok]


def said(check: str, **changed: Any) -> str:
    return next(one.text for one in judge_machine(WELL._replace(**changed)) if one.check == check)


def test_a_machine_that_is_well() -> None:
    """Nothing is wrong, and each check says in one sentence how it is (LT4)."""
    found = judge_machine(WELL)
    assert [one for one in found if not one.ok] == []
    assert len({one.check for one in found}) == len(found) > 15
    assert all(one.text and "\n" not in one.text for one in found)


@pytest.mark.parametrize(
    ("changed", "check", "text"),
    [
        ({"python": (3, 9, 18)}, "python", "use 3.10 or later"),
        ({"uvloop": ""}, "uvloop", "pip install --force-reinstall uvloop"),
        ({"variables": {"PYTHONHASHSEED": "0"}}, "hash-seed", "unset PYTHONHASHSEED"),
        ({"open_files": (256, 4096)}, "open-files", "ulimit -n 4096"),
        ({"open_files": (64, 64)}, "open-files", "its limit is 64: raise nofile"),
        ({"open_files": (256, -1)}, "open-files", "ulimit -n unlimited"),
        ({"runtime_fault": "/tmp/x is open to other users"}, "runtime-folder", "/tmp/x is open to other users); set"),
        ({"runtime_room": 3 * MB}, "runtime-folder", "has 3 MiB free; make room"),
        ({"longest_socket": 120}, "socket-paths", "can have 120 bytes and the system takes 100; set"),
        ({"shared_memory": 1 * MB}, "shared-memory", "--shm-size"),
        ({"ports": {8000: "process 7 (nginx)"}}, "port-8000", "held by process 7 (nginx); end that, or start with"),
        ({"ports": {8000: ""}}, "port-8000", "held by a process that this user cannot see"),
        ({"free_memory": 100 * MB}, "memory", "Only 100 MiB of 7.8 GiB"),
        ({"cpu_limit": 0.25}, "cpus", "may use 0.25 processors"),
        ({"clock": 0.0}, "clock", "set it"),
        ({"variables": {"HTTP_PROXY": "http://p:3128"}}, "proxies", "export no_proxy=127.0.0.1,localhost"),
        ({"variables": {"http_proxy": "x", "no_proxy": "localhost"}}, "proxies", "http_proxy would send requests"),
        ({"ray": (2, 9, 0)}, "ray", "pip install 'ray>=2.52'"),
        ({"killed": (Killed("shop", "/r/shop"), Killed("", "/r/.a b"))}, "leftovers", "rm -r /r/shop '/r/.a b'"),
    ],
)  # fmt: skip
def test_what_is_wrong_says_what_to_do(changed: dict[str, Any], check: str, text: str) -> None:
    """One thing is wrong; just that check says so, with what to do (LT4)."""
    [(found, sentence)] = wrong(**changed)
    assert found == check
    assert text in sentence


def test_what_is_only_worth_knowing() -> None:
    """What harms nobody is no fault: a page's port in use, an instance's own, a container's share, no Ray (LT4)."""
    held = {8000: "instance 'shop' (process 7)", 8070: "process 8 (x)", 8080: "process 9 (y)"}
    assert wrong(ports=held, cpu_limit=2.0, ray=(), shared_memory=-1, memory=0) == []
    assert wrong(ports={8000: "process 7 (nginx)"}, instances=1) == []
    assert wrong(variables={"HTTP_PROXY": "x", "NO_PROXY": "a, 127.0.0.1,localhost"}, open_files=(-1, -1)) == []
    assert "may use 2 of 8 processors" in said("cpus", cpu_limit=2.0)
    assert "make dist" in said("release", compiled=False)
    assert "another instance needs --http-port" in said("port-8000", ports=held)


def test_this_machine_can_be_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The facts of the machine that this test runs on can be gathered, with a killed instance among them (LT4)."""
    monkeypatch.setattr(facts, "SWEEP_AGE_S", -1.0)
    monkeypatch.setattr(facts, "runtime_folder", lambda: tmp_path)
    monkeypatch.setattr(facts, "live_folders", list)
    for name in ("shop", ".anonymous.x1", ".cache", "young"):
        (tmp_path / name).mkdir()
    about = About("i", "shop", 1, None, 0, 1.0, 1)
    for name in ("shop", ".anonymous.x1", ".cache"):
        InstanceFolder(tmp_path / name).write("about", json.dumps({"instance": about.instance}).encode())
    seen = look_at_machine()
    assert seen.killed == (Killed("", str(tmp_path / ".anonymous.x1")), Killed("shop", str(tmp_path / "shop")))
    assert seen.python >= (3, 10)
    assert seen.cpus >= 1
    assert seen.memory >= seen.free_memory > 0
    assert seen.runtime_room > 0
    assert judge_machine(seen)


def test_a_folder_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Others can enter the folder of my instances: it says so, and looks no further (LT4)."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "pointsman").mkdir(mode=0o777)
    (tmp_path / "pointsman").chmod(0o777)
    monkeypatch.setattr("pointsman.engine.folder.MAX_SOCKET_PATH", 1000)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    found = {one["check"]: one for one in json.loads(done.stdout)}
    assert found["runtime-folder"]["ok"] is False
    assert "open to other users" in found["runtime-folder"]["text"]


BACKEND = {"state": "RUNNING", "replicas_running": 2, "replicas_wanted": 2, "failure": None}
HEALTHY = Condition(
    name="shop",
    own_release="0.1.0",
    release="0.1.0",
    fault="",
    status={"controller_pid": 7, "backends": {"rank": BACKEND}},
    http="http://127.0.0.1:8000",
    http_fault="",
    ready=True,
    console="http://127.0.0.1:8070",
    console_fault="",
    state=Store("/var/lib/shop", "ext4", 10_000 * MB),
    logs="/var/lib/shop/logs",
    log_bytes=MB,
)


def sick(**changed: Any) -> list[tuple[str, str]]:
    return [(one.check, one.text) for one in judge_instance(HEALTHY._replace(**changed)) if not one.ok]


def with_backend(**changed: Any) -> dict[str, Any]:
    return {"status": {"controller_pid": 7, "backends": {"rank": BACKEND | changed}}}


FAILED = {"reason": "error", "text": "no such file: w.bin\nmore", "traceback": "", "failures": 3}


@pytest.mark.parametrize(
    ("changed", "check", "text"),
    [
        ({"fault": "none within 10 s", "status": {}}, "controller", "no answer (none within 10 s); requests go on;"),
        ({"release": "0.0.9"}, "release", "and this command is 0.1.0; run: pointsman upgrade --name shop"),
        (with_backend(replicas_running=1, failure=FAILED), "backend rank", "1 of 2 replicas run; the last failure: no"),
        (with_backend(replicas_running=0, state="UNHEALTHY"), "backend rank", "0 of 2 replicas run (UNHEALTHY)"),
        ({"http_fault": "status 503"}, "http", "http://127.0.0.1:8000 gives no good answer (status 503)"),
        ({"ready": False}, "http", "not ready"),
        ({"console_fault": "refused"}, "console", "gives no good answer (refused)"),
        ({"state": Store("/mnt/s", "nfs4", MB)}, "state", "network file system (nfs4)"),
        ({"state": Store("/s", "ext4", MB)}, "state", "/s has 1 MiB free, and changes need to be written; make room."),
        ({"log_bytes": 3000 * MB}, "logs", "has 2.9 GiB"),
    ],
)  # fmt: skip
def test_what_ails_an_instance(changed: dict[str, Any], check: str, text: str) -> None:
    """One thing is wrong with an instance; just that check says so, with what to read or do (LT4)."""
    [(found, sentence)] = sick(**changed)
    assert found == f"shop/{check}"
    assert text in sentence
    assert "\n" not in sentence


def test_an_instance_that_is_well() -> None:
    """Nothing is wrong with it, whatever it has not got (LT4)."""
    assert sick() == []
    assert sick(**with_backend(replicas_running=1, state="SCALING")) == []
    assert (
        sick(status={"controller_pid": 7, "backends": {}}, http="", console="", state=None, logs="", release="") == []
    )


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("HUB_TOKEN=abc123 next", "abc123"),
        ('{"api_key": "k-9", "n": 1}', "k-9"),
        ("password: 'hunter two' end", "hunter two"),
        ("curl -H 'Authorization: Bearer eyJhbGci.x-y'", "eyJhbGci"),
        ("authorization: Basic dXNlcjpwdw==", "dXNlcjpwdw"),
        ("postgres://me:pw0rd@db/x", "pw0rd"),
        ("GET /rank?sig=Zx8_2&n=1 -> 200", "Zx8_2"),
        ('{"target": "/rank?sig=Zx8_3"}', "Zx8_3"),
        ("http_proxy=http://me:p@ss@proxy:3128", "ss@"),
        ("http://127.0.0.1:8070/#token=Zx8_1", "Zx8_1"),
        ("python serve.py --api-key s3 --port 1", " s3 "),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "MIIE"),
        ("hf_abcdefghijklmnopqrstuv is mine", "hf_abc"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, hidden: str) -> None:
    """Nobody has told us that it is one, and it is hidden all the same (LT4)."""
    shown = Redactor([]).text(text)
    assert hidden not in shown
    assert HIDDEN in shown


TEXT = st.text(alphabet="abcxyz019-_/ ", max_size=12)


@given(secret=st.text(alphabet="ABC$é", min_size=4, max_size=9), before=TEXT, after=TEXT)
@examples(30)
def test_known_secrets_are_nowhere(secret: str, before: str, after: str) -> None:
    """A value that I gave as a secret is in no text, list or dictionary of what is written (LT4)."""
    value = {before + secret: [{"x": before + secret + after}], "n": (1, None, secret)}
    shown = json.dumps(Redactor([secret, secret[:4]]).value(value), ensure_ascii=False)
    assert secret not in shown
    assert secret[:4] not in shown


def test_known_secrets_are_hidden_as_logs_write_them() -> None:
    """A log in JSON, a traceback or a URL has my secret in another spelling, and it is hidden there, too (LT4)."""
    secret = 'a"b\\c\nd e'
    for text in (json.dumps({"text": secret}), repr(secret), f"http://x/?q={quote(secret)}"):
        assert HIDDEN in Redactor([secret]).text(text)


LOG = """\
2026-11-29T12:27:10.937Z INFO pointsman.controller: version 7: backend x
2026-11-29T12:27:10.955Z WARNING pointsman.controller.observed: x#1 failed: Boom: pl4nted
    more of pl4nted
2026-11-29T12:27:11.000Z ERROR pointsman.ingress: [id] broke
    Traceback (most recent call last):
      File "/a/b.py", line 3, in f
        raise Boom(text, "pl4nted")
    b.Boom: pl4nted
    pl4nted again

    During handling of the above exception, another exception occurred:
    ValueError: pl4nted
2026-11-29T12:27:12.000Z INFO pointsman.controller: goes on: all well
"""


def test_what_exceptions_say_is_left_out() -> None:
    """A deploy that was taken back has put its variable into an exception, which our log repeats. Its type, and where
    it was raised, stay (LT4)."""
    shown = without_texts_of_exceptions(LOG)
    assert "pl4nted" not in shown
    for kept in ("x#1 failed: Boom: ***", 'File "/a/b.py", line 3', "raise Boom(text, ", "b.Boom: ***", "on: all well"):
        assert kept in shown
    found = "1 of 2 replicas run; the last failure: OSError: x; read: y"
    assert without_texts_of_exceptions(found) == "1 of 2 replicas run; the last failure: OSError: ***"
    for check in judge_machine(WELL._replace(ports={8000: ""}, uvloop="", ray=(2, 9))):
        assert without_texts_of_exceptions(check.text) == check.text


def test_ordinary_text_stays() -> None:
    """What has nothing secret in it is not changed: it would be of no use to anybody (LT4)."""
    text = "2026-11-28T09:30:00.123Z INFO pointsman.controller: backend 'tokenizer' runs, 3 replicas at http://127.0.0.1:80/"
    assert Redactor(["abcdef"]).text(text) == text


class Answers:
    """A client of an instance on a cluster, whose controller answers, fails or hangs."""

    def __init__(self, wait: Callable[[], object] = bool) -> None:
        self._wait = wait

    def status(self) -> dict[str, Any]:
        self._wait()
        return {**HEALTHY.status, "http": None, "console": None, "name": "shop"}

    def stats(self) -> dict[str, Any]:
        raise ServeException("it records no metrics")

    def history(self) -> list[dict[str, Any]]:
        return []

    def failures(self, tag: str) -> list[dict[str, Any]]:
        return []

    def _backends(self) -> dict[str, Any]:
        return {"rank": SimpleNamespace(resources=SimpleNamespace(env_vars={"HUB": "pl4nted"}))}

    def _status(self) -> Any:
        return SimpleNamespace(state_dir="")


def test_a_server_that_lets_only_some_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """With allowed_hosts or client certificates the doctor is let in no more than others: no fault (LT4)."""
    assert sick(http_fault=LOCKED, ready=False) == []
    body = b'{"error":"this server is not known by the host of the request","reason":"rejected"}'
    head = b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n" % len(body)
    monkeypatch.setitem(ANSWERS, "/-/healthz", (head + body,))
    with known_server() as server:
        assert instance._answer(f"http://127.0.0.1:{server.port}/-/healthz") == LOCKED
        assert instance._answer(f"http://127.0.0.1:{server.port}/busy") == "status 503"
        assert instance._answer(f"http://127.0.0.1:{server.port}/empty") == "status 204"


def test_an_instance_on_a_cluster() -> None:
    """It has no folder here: what its controller says is all that there is (LT4)."""
    found = look_at_instance("shop", cast(Any, Answers), None)
    assert found.said is not None
    assert (found.said.secrets, found.said.stats) == (("pl4nted",), {})
    assert all(one.ok for one in judge_instance(found.condition))
    assert found.condition.logs == ""


def test_a_controller_that_gives_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs, or refuses: the doctor says so, and goes on to the next check (LT4)."""
    monkeypatch.setattr(instance, "PATIENCE_S", 0.05)
    over = threading.Event()
    hung = look_at_instance("shop", lambda: cast(Any, Answers(over.wait)), None)
    over.set()
    assert (hung.said, hung.condition.fault) == (None, instance.SILENT)
    assert [one.check for one in judge_instance(hung.condition) if not one.ok] == ["shop/controller"]
    assert not any("state" in one.check for one in judge_instance(hung.condition))

    def refuse() -> Any:
        raise ServeException("no controller\nmore")

    assert look_at_instance("shop", refuse, None).condition.fault == "no controller"

    def otherwise() -> Any:
        raise KeyError("rollouts")

    fault = look_at_instance("shop", otherwise, None).condition.fault
    assert fault == "its answer is not understood: KeyError: 'rollouts'"


PLANTED = (
    "pl4nted-in-env",
    "pl4nted-in-url",
    "pl4nted-here",
    "pl4nted-operator-key",
    "pl4nted-bearer",
    "pl4nted-print",
)


def test_a_bundle_has_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I send the bundle to whoever helps: it has status, history, failures and logs, and none of my secrets (LT4)."""
    in_env, in_url, here, operator, bearer, printed = PLANTED
    monkeypatch.setenv("HUB_TOKEN", here)
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "controller.log").write_text(
        f"start failed: RuntimeError: {in_env}\nAuthorization: Bearer {bearer}\n{here}\n"
    )
    (logs / "replica-rank-abc.log").write_text(f"{printed}\n")
    (tmp_path / "key").write_text(operator)
    machine = WELL._replace(variables={"HTTP_PROXY": f"http://me:{in_url}@proxy:3128"})
    failures = {"rank": [{"text": f"bad value {in_env}", "traceback": f"RuntimeError: {in_env}"}]}
    said = Said({"backends": {}}, {}, [{"what": "created"}], failures, (in_env,), "")
    looked = Looked(HEALTHY._replace(name="(script) 7", logs=str(logs)), said)
    file = tmp_path / "bundle.tar.gz"
    write_bundle(file, judge_machine(machine), machine, [looked])
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as tar:
        texts = {name: tar.extractfile(name).read().decode() for name in tar.getnames()}  # type: ignore[union-attr]
    whole = "\n".join(texts.values())
    assert [secret for secret in PLANTED if secret in whole] == []
    assert HIDDEN in texts["pointsman-doctor/instances/_script__7/logs/controller.log"]
    assert "start failed: RuntimeError" in whole
    assert json.loads(texts["pointsman-doctor/findings.json"])[0]["check"] == "python"
    assert not any("replica" in name for name in texts)
    with pytest.raises(FileExistsError):
        write_bundle(file, [], machine, [])


def test_a_bundle_overwrites_nothing(tmp_path: Path) -> None:
    """A file of that name is there already: exit code 2, and it stays as it is (LT4)."""
    file = tmp_path / "notes"
    file.write_text("mine")
    done = CliRunner().invoke(app, ["doctor", "--bundle", str(file)])
    assert (done.exit_code, file.read_text()) == (2, "mine")


def test_a_bundle_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no room for it: I see what was found all the same, and no half of it is left (LT4)."""

    def full(*_: object) -> Iterator[tuple[str, str]]:
        yield "README.txt", "x"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bundle, "_members", full)
    file = tmp_path / "bundle"
    done = CliRunner().invoke(app, ["doctor", "--name", "none", "--bundle", str(file)])
    assert done.exit_code == 1
    assert "checks found something wrong" in done.stdout
    assert "run: pointsman start --detached --name none" in " ".join(done.stdout.split())
    assert f"--bundle {file}: No space left on device" in done.stderr
    assert not file.exists()


def test_an_instance_that_does_not_run() -> None:
    """I mistype its name: it says which run, exit code 1 (LT4)."""
    done = CliRunner().invoke(app, ["doctor", "--json", "--name", "shopp"])
    assert done.exit_code == 1
    last = json.loads(done.stdout)[-1]
    assert (last["check"], last["ok"]) == ("shopp/controller", False)
    assert "No instance named 'shopp' runs on this machine" in last["text"]
