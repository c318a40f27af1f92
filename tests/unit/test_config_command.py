"""``pointsman diff``, ``apply`` and ``export`` against the controller's pure core: their output and exit codes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from pointsman.cli import config as commands
from pointsman.cli import main as command_line
from pointsman.cli.main import app
from pointsman.cli.tables import show_status
from pointsman.client.operations import new_id, status_view
from pointsman.configfile import applying as client_side
from pointsman.configfile import packing
from pointsman.configfile.applying import apply_file
from pointsman.controller import applying, transitions
from pointsman.controller.state import Desired, FreeCapacity
from pointsman.controller.views import declared_of
from pointsman.environments.rehearsal import Rehearsed
from pointsman.exceptions import BusyError, ServeException
from pointsman.model import Capacity, Origin, TargetTraits
from pointsman.wire.commands import (
    Accepted,
    Apply,
    AwaitOperation,
    CreateEndpoint,
    Query,
    QueryDeclared,
    SetTraffic,
    Status,
    TakeBack,
    UpdateBackendConfig,
)
from pointsman.wire.control import InstanceGoneError
from pointsman.wire.handover import HTTPSettings, InstanceSettings, StartOptions
from pointsman.wire.messages import pack
from tests.unit.configuring import EXAMPLE

NOW = "2026-11-28T12:00:00.000+00:00"
FILE = EXAMPLE.replace('    env: {requirements: ["scikit-learn==1.5.2"]}\n', "")
TRACEBACK = """Traceback (most recent call last):
  File "pointsman/usercode/callables.py", line 7, in make
    return cls(*args)
  File "/shop/ranking.py", line 3, in __init__
    raise ValueError("boom")
ValueError: boom
"""


class Box:
    """An instance in a variable: the pure core of a controller, whose replicas come up at once, or not at all.

    Attributes:
        failing: tag of a backend that cannot come up.
        before: called before each Apply, once.
        waiting: called when somebody waits for an apply.
        state_dir: of its store.
    """

    def __init__(self) -> None:
        self.desired = Desired()
        self.failing = self.state_dir = ""
        self.before: Callable[[], None] | None = None
        self.waiting: Callable[[], None] | None = None
        self.applied: list[Apply] = []
        self.http = HTTPSettings("127.0.0.1", 8000, False, 300.0, 64 * 2**20, True, b"", Origin("", ()))
        self.start_options = StartOptions()
        self._credentials = SimpleNamespace(control_path="")
        self._session = self

    def _check_alive(self) -> None:
        pass

    def _status(self) -> Status:
        running = self.desired.running
        view = applying.view_of(running, self.desired.version) if running is not None else None
        ports = "127.0.0.1", 8000
        return Status(self.desired.version, 1, "default", *ports, {}, {}, (), operation=view, state_dir=self.state_dir)

    def _settings(self) -> InstanceSettings:
        return InstanceSettings("i", "default", b"", http=self.http, start_options=self.start_options)

    def change(self, command: Any) -> None:
        self.desired, _ = transitions.carry_out(self.desired, command, FreeCapacity(Capacity()), NOW)

    def command(self, command: Any, body: bytes = b"", **given: Any) -> bytes:
        if isinstance(command, QueryDeclared):
            return pack(declared_of(self._settings(), self.desired))
        if isinstance(command, Query):
            return pack(self._status())
        if isinstance(command, Apply):
            before, self.before = self.before, None
            if before is not None:
                before()
            self.applied.append(command)
            self.change(command)
            return pack(Accepted(self.desired.version))
        if isinstance(command, TakeBack):
            self.change(command)
            return pack(Accepted(self.desired.version))
        assert isinstance(command, AwaitOperation)
        if self.waiting is not None:
            self.waiting()
        running = self.desired.running
        if running is not None and self.failing in running.backends:
            name = f"backend/{self.failing}"
            self.desired = applying.take_back(self.desired, name, "it cannot come up", TRACEBACK, now=NOW)
        elif running is not None:
            fallbacks = {t: f for t, f in self.desired.fallbacks.items() if t not in running.backends}
            self.desired = applying.complete(msgspec.structs.replace(self.desired, fallbacks=fallbacks), NOW)
        return pack(applying.view_of(applying.find_operation(self.desired, command.operation), self.desired.version))


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Box:
    """An instance, to which the commands connect; the example is in the working folder. Code is not really loaded."""
    box = Box()
    monkeypatch.setattr(commands, "connect_to", lambda *_: box)
    monkeypatch.setenv("HUB_TOKEN", "s3cret")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ranking.py").write_text("class Ranker: ...")
    write(FILE)
    files = {"ranking": str(tmp_path / "ranking.py")}

    def try_import(*_: object) -> Rehearsed:
        return Rehearsed(TargetTraits(is_class=True, has_reconfigure=True), packing.content_digest(files), "", files)

    monkeypatch.setattr(packing, "try_import", try_import)
    return box


def write(text: str) -> None:
    Path("shop.yaml").write_text(text)


def run(*arguments: str, code: int = 0) -> Result:
    """The result of a command, which must exit with ``code``."""
    result = CliRunner().invoke(app, [*arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def json_of(*arguments: str, code: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", code=code).stdout)


CREATED = ["backend/ranker-v1", "backend/ranker-v2", "endpoint/rank"]
NONE = {"create": [], "update": [], "replace": [], "delete": [], "unchanged": []}


def test_a_file_is_applied_and_applied_again(box):
    """The first time everything is created, the second time nothing happens: no command is sent at all (CF5, CF6)."""
    assert [change["action"] for change in json_of("diff", "shop.yaml", code=3)["changes"]] == ["create"] * 3
    assert not box.applied
    first = json_of("apply", "shop.yaml")
    assert first == {**NONE, "version": first["version"], "create": CREATED}
    again = json_of("apply", "shop.yaml")
    assert again == {**NONE, "version": first["version"], "unchanged": CREATED}
    assert json_of("diff", "shop.yaml") == {"version": first["version"], "changes": [], "conflicts": []}
    assert len(box.applied) == 1


def test_what_people_read(box):
    """On paper: a table with what is in force and what the file has, and one line at the end (CF5, CF6)."""
    found = run("diff", "shop.yaml", code=3).stdout
    assert "+ create" in found
    assert "ranker-v1 95 %, ranker-v2 5 %" in found
    assert found.splitlines()[-1] == "3 to create; 0 as the file wants them (version 0)."
    assert run("apply", "shop.yaml").stdout.splitlines()[-1].startswith("Done: 3 created; 0 unchanged (version ")
    write(FILE.replace("num_replicas: 2", "num_replicas: 3").replace("weights-2", "weights-3"))
    found = run("diff", "shop.yaml", code=3).stdout
    assert "~ update" in found
    assert "± replace" in found
    assert '["weights-2.bin"]' in found


def test_no_secret_is_printed(box):
    """The value of a variable is in none of the outputs, and the diff of a new one shows that it differs (CF3)."""
    outputs = [run("diff", "shop.yaml", code=3), run("diff", "shop.yaml", "--json", code=3), run("apply", "shop.yaml")]
    write(FILE.replace("${HUB_TOKEN}", "other-s3cret"))
    changed = run("diff", "shop.yaml", code=3)
    assert "a value that is not shown differs" in changed.stdout
    outputs += [changed, run("diff", "shop.yaml", "--json", code=3), run("export"), run("export", "--json")]
    assert all("s3cret" not in result.output for result in outputs)
    assert 'HUB: "${HUB}"' in outputs[-2].stdout


def test_a_conflict_and_its_solutions(box):
    """A field that somebody has changed is not overwritten: 4, with both values and who; each way out works (CF10)."""
    run("apply", "shop.yaml")
    box.change(SetTraffic(new_id(), "rank", {"ranker-v1": 1.0}, by="bob"))
    found = json_of("apply", "shop.yaml", code=4)
    [conflict] = found["conflicts"]
    assert (conflict["object"], conflict["field"], conflict["by"]) == ("endpoint/rank", "traffic", "bob")
    assert (conflict["file"], conflict["live"]) == ({"ranker-v1": 0.95, "ranker-v2": 0.05}, {"ranker-v1": 1.0})
    assert 'the file has {"ranker-v1": 0.95' in run("apply", "shop.yaml", code=4).stderr
    assert json_of("diff", "shop.yaml", code=3)["conflicts"] == [conflict]
    assert len(box.applied) == 1
    assert json_of("apply", "shop.yaml", "--keep")["unchanged"] == CREATED
    assert box.desired.endpoints["rank"].policy.weights == {"ranker-v1": 1.0}
    assert not json_of("diff", "shop.yaml", "--keep")["conflicts"]
    assert json_of("apply", "shop.yaml", "--overwrite")["update"] == ["endpoint/rank"]
    assert box.desired.endpoints["rank"].policy.weights == {"ranker-v1": 0.95, "ranker-v2": 0.05}
    assert json_of("apply", "shop.yaml")["unchanged"] == CREATED
    assert run("apply", "shop.yaml", "--keep", "--overwrite", code=2)


def test_a_field_that_is_left_out_belongs_to_others(box):
    """``num_replicas`` that is taken out gets its default; from then on who scales by hand is not disturbed (CF10)."""
    run("apply", "shop.yaml")
    write(FILE.replace("num_replicas: 2, ", ""))
    [change] = json_of("diff", "shop.yaml", code=3)["changes"]
    assert change["fields"] == [{"field": "config.num_replicas", "from": 2, "to": 1}]
    run("apply", "shop.yaml")
    box.change(UpdateBackendConfig(new_id(), "ranker-v1", {"num_replicas": 5}, by="bob"))
    assert json_of("apply", "shop.yaml")["unchanged"] == CREATED
    assert box.desired.backends["ranker-v1"].config.num_replicas == 5


def test_the_name_of_another_file(box):
    """Another file cannot take what is not its own, unless it is told to; then the first one cannot (CF11)."""
    run("apply", "shop.yaml")
    write(FILE.replace("name: shop", "name: other"))
    conflicts = json_of("apply", "shop.yaml", code=4)["conflicts"]
    assert [(one["object"], one["field"], one["live"]) for one in conflicts] == [
        (name, "owner", "shop") for name in CREATED
    ]
    assert json_of("apply", "shop.yaml", "--adopt")["unchanged"] == CREATED
    write(FILE)
    assert len(json_of("apply", "shop.yaml", code=4)["conflicts"]) == 3


def test_what_is_gone_from_the_file_is_deleted(box):
    """The owner's objects that are no longer in the file go; what others have made stays (CF11)."""
    run("apply", "shop.yaml")
    write("pointsman: 1\nname: third\nbackends: {mine: {code: ranking:Ranker}}\n")
    run("apply", "shop.yaml")
    write("pointsman: 1\nname: shop\n")
    gone = json_of("apply", "shop.yaml")["delete"]
    assert sorted(gone) == CREATED
    assert list(box.desired.backends) == ["mine"]


def test_only_if_nothing_has_changed(box):
    """``--if-version`` of a diff that was read before somebody changed the state is refused: 4 (CF12)."""
    version = json_of("diff", "shop.yaml", code=3)["version"]
    assert "is of version 0, not 7" in run("apply", "shop.yaml", "--if-version", "7", code=4).stderr
    run("apply", "shop.yaml", "--if-version", str(version))
    run("apply", "shop.yaml", "--if-version", str(version), code=4)
    write(FILE.replace("num_replicas: 2", "num_replicas: 3"))
    now = box.desired.version
    box.before = lambda: box.change(SetTraffic(new_id(), "rank", {"ranker-v2": 1.0}, by="bob"))
    run("apply", "shop.yaml", "--if-version", str(now), code=4)
    assert box.desired.backends["ranker-v1"].config.num_replicas == 2


def test_the_state_moves_on_between_plan_and_command(box):
    """If somebody changes something else in between, the file is compared anew, and the change stays (CF8, CF10)."""
    run("apply", "shop.yaml")
    write(FILE.replace("weights-1", "weights-3"))
    box.before = lambda: box.change(UpdateBackendConfig(new_id(), "ranker-v2", {"max_surge": 1}, by="bob"))
    assert json_of("apply", "shop.yaml")["replace"] == ["backend/ranker-v1"]
    assert box.desired.backends["ranker-v2"].config.max_surge == 1


def test_another_apply_runs(box):
    """While one apply runs another is refused, and says whose it is: 4 (CF8)."""
    run("apply", "shop.yaml")
    write(FILE.replace("weights-1", "weights-3"))
    box.waiting = lambda: run("apply", "shop.yaml", code=4)
    result = run("apply", "shop.yaml")
    assert result.stdout.splitlines()[-1].startswith("Done: 1 replaced")


def test_a_failed_apply_is_taken_back(box):
    """What cannot come up takes everything back: 5, with the object and its traceback from my first line on (CF7)."""
    run("apply", "shop.yaml")
    box.failing = "ranker-v2"
    write(FILE.replace("weights-2", "weights-3").replace("95%", "50%").replace(" 5%", " 50%"))
    result = run("apply", "shop.yaml", code=5)
    shown = result.stderr.splitlines()
    assert shown[:2] == ["Traceback (most recent call last):", '  File "/shop/ranking.py", line 3, in __init__']
    assert "ValueError: boom" in shown
    assert result.stderr.splitlines()[-1] == "pointsman: the apply was taken back: backend/ranker-v2: it cannot come up"
    assert box.desired.endpoints["rank"].policy.weights["ranker-v1"] == 0.95
    box.failing = ""
    write(FILE)
    assert not json_of("diff", "shop.yaml")["changes"]


def test_an_apply_that_would_run_for_ever(box):
    """The status shows whose it is and since when; ``take-back`` ends it, and who waits exits with 5 (CF7, CF8)."""
    assert "nothing to take back" in run("take-back", code=1).stderr
    run("apply", "shop.yaml")
    assert status_view(box._status(), None)["apply"] is None
    write(FILE.replace("weights-2", "weights-3"))
    seen: list[Any] = []

    def meanwhile() -> None:
        box.waiting = None
        status = status_view(box._status(), None)
        out = io.StringIO()
        show_status(status, Console(file=out, width=120))
        assert "is not in force yet" in run("diff", "shop.yaml", code=3).stderr
        seen.extend([status["apply"], out.getvalue(), json_of("take-back")])

    box.waiting = meanwhile
    result = run("apply", "shop.yaml", code=5)
    assert "took it back" in result.stderr
    running, table, ended = seen
    assert (running["owner"], running["since"]) == ("shop", NOW)
    assert f"'shop' is being applied by {running['by']}" in table
    assert (ended["owner"], ended["state"]) == ("shop", "taken back")
    assert box.desired.backends["ranker-v2"].source.args == b'["weights-2.bin"]'


def test_an_interrupted_apply_goes_on(box):
    """Ctrl-C while backends come up leaves the apply to the controller, and says so: 130 (CF8)."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    box.waiting = interrupt
    assert "The apply goes on without this command" in run("apply", "shop.yaml", code=130).stderr
    assert box.desired.running is not None
    box.waiting, box.desired = None, Desired()
    box.before = interrupt
    assert "Interrupted" in run("apply", "shop.yaml", code=130).stderr
    assert box.desired.running is None


def test_the_instance_ends_during_an_apply(box):
    """Whoever waits hears whether the apply goes on when the instance is started again (CF8)."""

    def end() -> None:
        raise InstanceGoneError("the instance has ended")

    box.waiting = end
    with pytest.raises(ServeException, match="nothing of either is kept, since it had no state_dir"):
        apply_file(box, "shop.yaml")
    box.desired, box.state_dir = Desired(), "/var/lib/shop"
    with pytest.raises(ServeException, match="goes on when the instance is started again with its state in /var/lib"):
        apply_file(box, "shop.yaml")


def test_apply_asks_on_a_terminal(box, monkeypatch):
    """On a terminal the changes are shown first, and anything but yes changes nothing; ``--yes`` does not ask (CF6)."""
    monkeypatch.setattr(commands, "is_interactive", lambda: True)
    refused = CliRunner().invoke(app, ["apply", "shop.yaml"], input="n\n")
    assert (refused.exit_code, box.applied) == (1, [])
    assert "Nothing has changed" in refused.output
    assert CliRunner().invoke(app, ["apply", "shop.yaml"], input="y\n").exit_code == 0
    write(FILE.replace("num_replicas: 2", "num_replicas: 3"))
    run("apply", "shop.yaml", "--yes")
    assert len(box.applied) == 2


def test_a_file_of_code_that_is_saved_meanwhile(box, monkeypatch):
    """If a module changes between its trial and the command, nothing is sent: 1, and the files are named (CF9)."""
    real = client_side.plan

    def plan(*given: Any) -> Any:
        Path("ranking.py").write_text("class Ranker: pass")
        return real(*given)

    monkeypatch.setattr(client_side, "plan", plan)
    result = CliRunner().invoke(app, ["apply", "shop.yaml"])
    assert "a file was changed while its code was loaded" in str(result.exception)
    assert not box.applied


def test_an_instance_unlike_the_file(box):
    """What the file says of the instance and is not so needs a restart: 2, with its place; port 0 is any (CF14)."""
    write(FILE.replace("port: 8000", "port: 9000, debug: true"))
    lines = run("diff", "shop.yaml", code=2).stderr.splitlines()
    assert lines == [
        "shop.yaml:3:25: http.port is 8000 in the instance that runs, and needs a restart to become 9000",
        "shop.yaml:3:38: http.debug is false in the instance that runs, and needs a restart to become true",
    ]
    assert json_of("apply", "shop.yaml", code=2)["problems"][0]["line"] == 3
    write(FILE.replace("port: 8000", "port: 0"))
    run("diff", "shop.yaml", code=3)
    others = "{name: lab, state_dir: state, engine: ray, metrics_export_port: null"
    write(FILE.replace("{http: {port: 8000}", others))
    assert len(run("diff", "shop.yaml", code=2).stderr.splitlines()) == 4


def test_what_apply_would_be_refused_for(box):
    """A taken route, and a backend that is gone from the file and in use, are found by ``diff`` as well: 2, with the
    place where the file has one (CF5, CF11)."""
    run("apply", "shop.yaml")
    box.change(CreateEndpoint(new_id(), "hand", "ranker-v2", "/hand", ("GET",), False, by="bob"))
    one = "backends: {ranker-v1: {code: ranking:Ranker}}\nendpoints: {rank: {route: /hand, backend: ranker-v1}}\n"
    write(f"pointsman: 1\nname: shop\n{one}")
    for command in ("diff", "apply"):
        assert run(command, "shop.yaml", code=2).stderr.splitlines() == [
            "shop.yaml: backend 'ranker-v2' has gone from this file and cannot be deleted: endpoint 'hand' uses it in"
            " its traffic, shadows or pins",
            "shop.yaml:4:27: route '/hand' of endpoint 'rank' is taken by endpoint 'hand', which is not in this file;"
            " give it another",
        ]
    assert len(box.applied) == 1


def test_options_that_an_instance_keeps_in_words(box):
    """Amounts, switches and formats are compared, too; a default is as good as no word (CF14)."""
    said = "{num_cpus: 2, resources: {b: 2, a: 1.5}, log_format: json, client_in_replicas: false"
    others = ("--num-cpus", "2", "--resource", "a=1.5", "--resource", "b=2", "--log-format", "json")
    box.start_options = StartOptions(others=(*others, "--no-client-in-replicas"), locks=("--http-processes", "3"))
    write(FILE.replace("{http: {port: 8000}", said + ", http: {processes: 3}"))
    run("diff", "shop.yaml", code=3)
    box.start_options = StartOptions(others=("--num-cpus", "4"))
    assert [line.partition(": ")[2] for line in run("diff", "shop.yaml", code=2).stderr.splitlines()] == [
        f"{option} in the instance that runs, and needs a restart to become {wanted}"
        for option, wanted in (
            ('num_cpus is "4"', "2.0"),
            ("resources is null", '{"b": 2.0, "a": 1.5}'),
            ('log_format is "text"', '"json"'),
            ("client_in_replicas is true", "false"),
            ("http.processes is 1", "3"),
        )
    ]
    write(FILE.replace("{http: {port: 8000}", "{log_format: text, client_in_replicas: true, engine: local"))
    run("diff", "shop.yaml", code=3)


def test_another_console_needs_a_restart(box):
    """What the file says of the console is compared with what runs: its port, 0 for any, and options (CF14)."""
    write(FILE)

    def told() -> list[str]:
        lines = run("diff", "shop.yaml", code=2).stderr.splitlines()
        return [line.partition(" in the instance that runs, and needs a restart to become ")[::2] for line in lines]

    box.start_options = StartOptions(others=("--console-port", "-1"))
    assert told() == [("shop.yaml:3:48: console.port is null", "8070")]
    there = ("--console-port", "8071", "--console-host", "::1", "--console-read-only")
    box.start_options = StartOptions(others=there)
    write(FILE.replace("console: {port: 8070}", "console: {port: 0, read_only: true, host: 127.0.0.1}"))
    assert told() == [('shop.yaml:3:74: console.host is "::1"', '"127.0.0.1"')]
    write(FILE.replace("console: {port: 8070}", "console: {port: 8071, host: '::1', read_only: true}"))
    run("diff", "shop.yaml", code=3)


def test_an_export_can_be_applied(box):
    """What runs as a file: nothing to do for it; and a bad file is a line for each problem: 2 (CF2, CF13)."""
    run("apply", "shop.yaml")
    write(run("export").stdout.replace("${HUB}", "${HUB_TOKEN}"))
    assert not json_of("diff", "shop.yaml")["changes"]
    assert json_of("export", "shop")["name"] == "shop"
    write(FILE.replace("code", "cod").replace("95%", "99%"))
    bad = run("apply", "shop.yaml", code=2)
    assert len(bad.stderr.splitlines()) == 5
    assert not bad.stdout


def test_one_field_of_a_hundred_backends(box):
    """One field that changes in a file of a hundred backends is for the controller a change of one of them (CF9)."""
    backends = "".join(f"  b{n}:\n    code: ranking:Ranker\n    args: [weights-{n}.bin]\n" for n in range(100))
    text = f"pointsman: 1\nname: shop\nbackends:\n{backends}"
    write(text)
    assert len(json_of("apply", "shop.yaml")["create"]) == 100
    versions = {tag: spec.version for tag, spec in box.desired.backends.items()}
    write(text.replace("weights-57.bin", "other.bin"))
    outcome = json_of("apply", "shop.yaml")
    assert outcome["replace"] == ["backend/b57"]
    assert list(box.applied[-1].plan.backends) == ["b57"]
    assert len(box.applied[-1].codes) == 1
    changed = {tag for tag, spec in box.desired.backends.items() if spec.version != versions[tag]}
    assert changed == {"b57"}


def test_a_command_that_a_running_apply_refuses(monkeypatch):
    """``scale`` or ``delete`` of a backend that is being applied exits with 4, as a second apply does (CF8)."""

    def refused() -> None:
        raise BusyError("backend 'a' cannot be changed now")

    monkeypatch.setattr(command_line, "app_for", lambda arguments: refused)
    for name in ("become_init", "give_standard_streams", "let_signals_unwind", "ignore_signals"):
        monkeypatch.setattr(command_line, name, lambda: None)
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 4
