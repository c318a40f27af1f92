"""The table of the console's calls: its OpenAPI document, and what a change of weights is said to do."""

from __future__ import annotations

import pickle
from datetime import datetime, timedelta, timezone

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from pointsman.configfile.fields import NO_JSON, config_fields
from pointsman.console.behalf import UserClient
from pointsman.console.loglines import LogTail
from pointsman.console.openapi import document
from pointsman.console.operations import Operations
from pointsman.console.preview import preview
from pointsman.console.routes import all_calls
from pointsman.console.table import PREFIX, Ask, Table
from pointsman.exceptions import ForbiddenError
from pointsman.model import (
    Autoscaling,
    BackendConfigSpec,
    BackendSpec,
    CustomPolicy,
    EndpointSpec,
    Origin,
    Pins,
    Resources,
    TargetTraits,
    TrafficPolicy,
)
from pointsman.model.scaling import ScalingPolicy
from pointsman.model.tokens import DEPLOY, OPERATE, VIEW
from tests.conftest import wait_until

CALLS = all_calls(Operations(), LogTail(dict))
NOW = datetime(2026, 11, 29, 9, 0, tzinfo=timezone.utc)


def test_every_call_is_in_the_document():
    """Tools read the whole API from openapi.json: each call, its parameters, bodies and refusals (AD5)."""
    described = document(CALLS)
    OpenAPIV31SpecValidator(described).validate()
    for call in CALLS:
        operation = described["paths"][PREFIX + call.path][call.method.lower()]
        given = {(one["in"], one["name"]) for one in operation["parameters"]} if "parameters" in operation else set()
        assert {("path", name) for name in call.names} | {("query", one.name) for one in call.query} <= given
        assert (("header", "If-Match") in given) == call.is_change
        assert ("requestBody" in operation) == (call.body is not None)
        assert {"200", "400", "503"} <= operation["responses"].keys()
        assert ("401" in operation["responses"]) != call.is_open
    ids = [one["operationId"] for path in described["paths"].values() for one in path.values()]
    assert len(ids) == len(set(ids)) == len(CALLS)


def test_the_contract_has_all_its_calls():
    """The calls that are promised are there, each for the role that is promised (AD3, AD5)."""
    roles = {f"{call.method} {call.path}": call.role for call in CALLS}
    endpoint, backend = "/endpoints/{endpoint}", "/backends/{backend}"
    for read in ("/me", "/status", "/stats", "/endpoints", "/backends", "/history", "/config", "/logs", backend):
        assert roles[f"GET {read}"] == VIEW
    for path in ("traffic", "history", "explain", "rollout", "shadows/{backend}"):
        assert roles[f"GET {endpoint}/{path}"] == VIEW
    assert roles[f"POST {endpoint}/traffic/preview"] == roles["POST /config/diff"] == VIEW
    changes = {f"PUT {endpoint}/traffic", f"POST {endpoint}/rollback", f"PATCH {backend}/config"}
    changes |= {f"{verb} {endpoint}/pins" for verb in ("PUT", "DELETE")}
    changes |= {f"POST {endpoint}/rollout/{verb}" for verb in ("pause", "resume", "promote", "abort")}
    changes |= {f"POST {backend}/wake", f"POST {backend}/unload", f"PUT {backend}/hold", f"DELETE {backend}/hold"}
    assert all(roles[change] == OPERATE for change in changes)
    assert roles["PUT /config"] == DEPLOY
    assert {name for name, role in roles.items() if role != VIEW} == changes | {"PUT /config"}


def test_a_name_in_a_path_keeps_its_own_characters():
    """Whatever a name holds, it is one segment, and no path leads out of the table (AD5)."""
    table = Table(CALLS)
    call, names = table.find("GET", "/endpoints/a%2Fb%20%3F%25/traffic")
    assert (call.path, names) == ("/endpoints/{endpoint}/traffic", {"endpoint": "a/b ?%"})
    with pytest.raises(Exception, match="there is no"):
        table.find("GET", "/endpoints/a/b/traffic")


# Code of users

OWN = CustomPolicy("no_such_module:Policy")


def test_the_console_asks_no_policy_of_ones_own():
    """An explanation under a policy of my own says that it decides, and my code is not imported for it (AD5)."""
    policy = TrafficPolicy(1, {"old": 0.5, "new": 0.5}, {}, OWN)
    endpoint, pins = EndpointSpec("shop", "/shop", ("GET",), policy), Pins({"vip": "new"})
    client = object.__new__(UserClient)
    found = client._explained(endpoint, pins, "user-1")
    assert (found["why"], found["backend"], found["numbers"]) == ("policy", None, {})
    assert client._explained(endpoint, pins, "vip")["backend"] == "new"


def test_a_change_of_configuration_brings_no_code():
    """Another autoscaling policy is code, which needs a configuration file; the present one stays (AD3, AD5)."""
    client, own = object.__new__(UserClient), ScalingPolicy("mine:Rule", ("/srv",))
    spec = BackendSpec(
        "v1", 1, 1, "", Origin("/", ()), TargetTraits(True), BackendConfigSpec(autoscaling=Autoscaling(policy=own)),
        Resources(),
    )  # fmt: skip
    changes = {"autoscaling": Autoscaling(max_replicas=9, policy=ScalingPolicy("mine:Rule"))}
    client._find_policy(changes, spec)
    assert changes["autoscaling"] == Autoscaling(max_replicas=9, policy=own)
    with pytest.raises(ForbiddenError, match="is code"):
        client._find_policy({"autoscaling": Autoscaling(policy=ScalingPolicy("os:system"))}, spec)


class Lively:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_configuration_is_read_without_running_it(capsys):
    """A user_config that is a class's object is not loaded to be shown; one of plain values is (AD5)."""
    lively = BackendConfigSpec(user_config=pickle.dumps({"a": Lively()}, 5))
    assert config_fields(lively)["config.user_config"] == NO_JSON
    plain = BackendConfigSpec(user_config=pickle.dumps({"a": [1, 2.5, None, "x"], "b": {}}, 5))
    assert config_fields(plain)["config.user_config"].value == {"a": [1, 2.5, None, "x"], "b": {}}
    assert capsys.readouterr().out == ""


# What a preview warns of


def warned(weights, *, traffic=None, backends=None, history=(), rollouts=None, by="token anna", window=None):
    """The warnings about weights of the endpoint "shop"."""
    traffic = {"weights": {"old": 1.0}, "policy": "weighted", "pins": {}, **(traffic or {})}
    backends = {"old": backend(), "new": backend(), **(backends or {})}
    status = {"endpoints": {"shop": {"last_minute": window}}, "backends": backends, "rollouts": rollouts or {}}
    found = preview("shop", weights, traffic=traffic, history=list(history), status=status, by=by, now=NOW)
    return found["warnings"]


def backend(state="RUNNING", running=2, wanted=2, failure=None):
    return {"state": state, "replicas_running": running, "replicas_wanted": wanted, "failure": failure}


def change(by, ago_s):
    return {"by": by, "time": (NOW - timedelta(seconds=ago_s)).isoformat()}


CANARY = {"old": 0.95, "new": 0.05}


def test_a_change_that_is_well_prepared_has_no_warnings():
    """A preview of a healthy canary says nothing but what moves (AD5)."""
    assert warned(CANARY, history=[change("root", 900), change("token anna", 5)]) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"backends": {"new": backend(running=0)}}, ["new has no replica that runs, of 2"]),
        ({"backends": {"new": backend(running=1)}}, ["new has 1 of 2 replicas"]),
        ({"backends": {"new": backend("IDLE", 0, 0)}}, ["new has no replica: the first call wakes it"]),
        (
            {"backends": {"new": backend("UNHEALTHY", 0, 1, {"text": "no such file"})}},
            ["new is UNHEALTHY: no such file", "new has no replica that runs, of 1"],
        ),
        ({"backends": {"old": backend(running=0)}}, []),
        ({"traffic": {"pins": {"a": "old", "b": "old"}}}, ["2 pinned keys stay where they are"]),
        ({"history": [change("root", 90000), change("token bob", 40)]}, ["token bob changed this 40 s ago"]),
        ({"history": [change("root", 90000), change("token bob", 240)]}, ["token bob changed this 4 min ago"]),
        ({"history": [change("root", 90000), change("token bob", 900)]}, []),
        (
            {"rollouts": {"shop": {"ended": "", "plan": {"to": "new"}}}},
            ["a rollout to new is under way, and ends with this change"],
        ),
        ({"rollouts": {"shop": {"ended": "2026", "plan": {"to": "new"}}}}, []),
        (
            {"window": {"backends": {"new": {"requests": 200, "errors": 7}}}},
            ["new has answered 3.5% of its calls with errors in the last minute"],
        ),
        ({"window": {"backends": {"new": {"requests": 5, "errors": 1}}}}, []),
    ],
)
def test_a_preview_warns_of_what_speaks_against_it(given, words):
    """Before I press Apply I read what is missing, failing, or was changed by somebody else (AD5)."""
    assert warned(CANARY, **given) == words


def test_a_policy_of_ones_own_is_named():
    """Where a policy of my own chooses, the preview says that its numbers are those of the built-in one (AD5)."""
    (text,) = warned(CANARY, traffic={"policy": "mine:Policy"})
    assert "mine:Policy" in text


def test_weights_of_a_backend_that_is_not_there_are_refused():
    """A preview refuses what a change would refuse, and names what there is (AD6)."""
    with pytest.raises(ValueError, match=r"'newer' does not exist; there are \['new', 'old'\]"):
        warned({"newer": 1.0})


# Logs


def asked(**query):
    return Ask(None, None, {}, {name: str(value) for name, value in query.items()})


@pytest.fixture
def logs(tmp_path):
    """A folder of log files, and the tail that follows them."""
    tail = LogTail(lambda: {"": tmp_path})
    yield tmp_path, tail
    tail.close()


def says(folder, process, *texts, level="INFO"):
    with (folder / f"{process}.log").open("a", encoding="utf-8") as file:
        for text in texts:
            file.write(f"2026-11-29T09:00:00.000Z {level} mine: {text}\n")


def test_logs_go_on_where_the_last_answer_ended(logs):
    """I follow the logs by asking for what came since: each line comes once, with its process and level (AD5, CR3)."""
    folder, tail = logs
    says(folder, "controller", "one", "two", level="WARNING")
    first = tail.answer(asked())
    assert [line["line"][-3:] for line in first["lines"]] == ["one", "two"]
    assert first["lines"][0]["process"] == "controller"
    assert first["lines"][0]["level"] == "WARNING"
    assert tail.answer(asked(after=first["next"]))["lines"] == []
    says(folder, "ingress-0", "three")
    then = tail.answer(asked(after=first["next"]))
    assert [line["process"] for line in then["lines"]] == ["ingress-0"]
    assert (len(then["lines"]), then["held_back"]) == (1, 0)


def test_logs_of_a_cluster_say_which_nodes_they_are_of(tmp_path):
    """On a cluster I see which nodes the lines are of; one that joins on this machine is among them at once (AD5)."""
    folders = {name: tmp_path / name for name in ("aa", "bb")}
    for folder in folders.values():
        folder.mkdir()
    says(folders["aa"], "controller", "one")
    known = {"aa": folders["aa"]}
    tail = LogTail(lambda: known)
    first = tail.answer(asked())
    assert first["nodes"] == ["aa"]
    says(folders["bb"], "ingress", "two")
    known = folders
    then = tail.answer(asked(after=first["next"]))
    assert (then["nodes"], [line["process"] for line in then["lines"]]) == (["aa", "bb"], ["ingress"])
    tail.close()


def test_more_than_two_hundred_lines_are_held_back(logs):
    """What prints without end does not fill my page: the newest 200 lines come, and how many did not (CR3)."""
    folder, tail = logs
    says(folder, "controller", "begin")
    after = tail.answer(asked())["next"]
    says(folder, "controller", *(f"line {number}" for number in range(1234)))
    found = tail.answer(asked(after=after, lines=1000))
    assert len(found["lines"]) == 200
    assert found["held_back"] == 1034
    assert found["lines"][-1]["line"].endswith("line 1233")


def test_logs_are_found_by_text_and_request(logs):
    """I search the logs by a text, in upper or lower case (AD5)."""
    folder, tail = logs
    says(folder, "controller", "Disk FULL", "all is well")
    assert len(tail.answer(asked(text="full"))["lines"]) == 1
    assert tail.answer(asked(text="full", backend="shop"))["lines"] == []
    with pytest.raises(ValueError, match="lines must be 1 to 1000"):
        tail.answer(asked(lines=0))


def test_a_huge_log_is_read_from_its_end(logs):
    """The first look at a log of hundreds of megabytes is quick: its last lines come, each of them whole (CR3)."""
    folder, tail = logs
    says(folder, "controller", *(f"line {number:06}" for number in range(20_000)))
    found = tail.answer(asked(lines=1000))["lines"]
    assert found[-1]["line"].endswith("line 019999")
    assert all(line["line"].startswith("2026-11-29T") for line in found)
    assert len(tail._lines) < 10_000


def test_files_are_closed_when_nobody_looks(tmp_path):
    """Logs that nobody follows any more hold no files open, which would keep their disk space (CR3)."""
    says(tmp_path, "controller", "one")
    tail = LogTail(lambda: {"": tmp_path}, idle_s=0.05)
    tail.answer(asked())
    wait_until(lambda: tail._open is None)


def test_after_a_pause_the_logs_begin_anew(logs):
    """When nobody has looked for a minute the files are closed; an old place in them begins anew (CR3)."""
    folder, tail = logs
    says(folder, "controller", "one")
    after = tail.answer(asked())["next"]
    tail.close()
    assert len(tail.answer(asked(after=after))["lines"]) == 1
