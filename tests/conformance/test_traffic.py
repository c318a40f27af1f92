"""Who answers: weights, their history, policies of one's own, and what HTTP clients are told about it."""

from __future__ import annotations

import datetime
import os
import threading
from itertools import pairwise

import httpx
import numpy as np
import pytest

from pointsman.exceptions import ServeException
from tests.conformance.traffic import ask_often, assert_shares, range_of
from tests.conftest import http_for, start_client
from tests.process.load import PAUSE_S


@pytest.fixture
def a(backends):
    return backends.tags[0]


@pytest.fixture
def b(backends):
    return backends.tags[1]


@pytest.fixture
def c(backends):
    return backends.tags[2]


def tag_of_backend(request):
    import pointsman as serve

    return serve.get_current_backend_tag()


# Weights


@pytest.mark.parametrize("way", ["http", "handle"])
def test_shares_of_three(client, endpoint, a, b, c, way):
    """I split traffic three ways, and each backend gets its share over HTTP and from handles (TR3, TR7, TR8)."""
    weights = {a: 0.6, b: 0.3, c: 0.1}
    client.set_traffic(endpoint, weights)
    handle = client.get_handle(endpoint)
    if way == "http":
        answers = ask_often(client, f"/{endpoint}", 2000)
    else:
        answers = [future.result() for future in [handle.remote() for _ in range(4000)]]
    assert_shares(answers, weights)


def test_each_draw_is_its_own(client, endpoint, a, b):
    """My test groups are drawn by chance and not in turns, so that no rhythm of the users shows in them (TR3)."""
    client.set_traffic(endpoint, {a: 0.5, b: 0.5})
    handle = client.get_handle(endpoint)
    answers = [future.result() for future in [handle.remote() for _ in range(4000)]]
    low, high = range_of(len(answers) - 1, 0.5)
    assert low <= sum(one != next_one for one, next_one in pairwise(answers)) <= high


def test_to_the_new_and_back(client, http, endpoint, a, b):
    """I go to the new model and back at once when it disappoints; the next request knows, the old one kept running
    (TR4, TR6)."""
    handle = client.get_handle(endpoint)
    before = client.status()["backends"]
    for tag in (b, a, b, a):
        client.set_traffic(endpoint, {tag: 1})
        assert [http.get(f"/{endpoint}").text for _ in range(10)] == [tag] * 10
        assert [handle.remote().result() for _ in range(10)] == [tag] * 10
    after = client.status()["backends"]
    assert {tag: after[tag] for tag in (a, b)} == {tag: before[tag] for tag in (a, b)}


def test_the_old_backend_can_go(client, http, endpoint, name, a):
    """When all traffic has moved I delete the old model, but not while it gets copies as a shadow (TR5, SH6)."""
    client.create_backend(f"{name}-old", tag_of_backend)
    client.set_traffic(endpoint, {f"{name}-old": 1})
    client.shadow_traffic(endpoint, f"{name}-old", 0.5)
    with pytest.raises(ValueError, match=f"'{name}'"):
        client.delete_backend(f"{name}-old")
    client.set_traffic(endpoint, {a: 1})
    with pytest.raises(ValueError, match=rf"'{name}' \(as a shadow\)"):
        client.delete_backend(f"{name}-old")
    client.shadow_traffic(endpoint, f"{name}-old", 0)
    client.delete_backend(f"{name}-old")
    assert f"{name}-old" not in client.list_backends()
    assert http.get(f"/{endpoint}").text == a


def test_shadows_stay(client, endpoint, a, b, c):
    """A new split does not silently end the trial that runs in shadow (TR9)."""
    client.shadow_traffic(endpoint, c, 0.5)
    client.set_traffic(endpoint, {a: 0.5, b: 0.5})
    assert client.get_traffic(endpoint)["shadows"] == {c: 0.5}
    assert client.list_endpoints()[endpoint] == {
        "route": f"/{endpoint}",
        "methods": ["GET", "POST"],
        "traffic": {a: 0.5, b: 0.5},
        "shadows": {c: 0.5},
    }


def test_weight_zero(client, backends, endpoint, a, b):
    """A backend at weight 0 gets nothing, and still nobody can delete it from under me (TR10)."""
    client.set_traffic(endpoint, {a: 0, b: 1})
    ask_often(client, f"/{endpoint}", 300)
    assert client.get_traffic(endpoint)["weights"] == {a: 0, b: 1}
    assert (len(backends.notes(a, endpoint)), len(backends.notes(b, endpoint))) == (0, 300)
    with pytest.raises(ValueError, match=endpoint):
        client.delete_backend(a)


def test_rollout_moves_each_user_once(client, http, endpoint, a, b):
    """I roll out in steps under load: no request fails, and each user changes to the new model once and for good
    (TR12, F30, SA7)."""
    users = [f"user {number}" for number in range(100)]
    statuses, stop = [], threading.Event()

    def load():
        with http_for(client) as mine:
            while not stop.wait(PAUSE_S):
                statuses.append(mine.get(f"/{endpoint}").status_code)

    thread = threading.Thread(target=load)
    thread.start()
    homes = {user: [] for user in users}
    for share in (0, 0.01, 0.05, 0.25, 0.5, 0.75, 1):
        client.set_traffic(endpoint, {a: 1 - share, b: share})
        for user in users:
            answer = http.get(f"/{endpoint}", headers={"x-serve-shard-key": user})
            assert answer.status_code == 200
            homes[user].append(answer.text)
    stop.set()
    thread.join()
    assert statuses
    assert set(statuses) == {200}
    for user, way in homes.items():
        assert way == sorted(way, key=(a, b).index), f"{user} went back and forth: {way}"
        assert (way[0], way[-1]) == (a, b)


@pytest.mark.parametrize(
    "parts",
    [(0.4, 0.6), (0, 1), (1, 0.0), (1 / 3, 2 / 3), (0.333333, 0.666666), (np.float32(0.1), np.float64(0.9)), (-0.0, 1)],
    ids=str,
)
def test_good_weights(client, endpoint, a, b, parts):
    """Ints, zeros, numpy's numbers and rounded thirds are weights; what is kept sums to 1 (TR1, TR2)."""
    client.set_traffic(endpoint, dict(zip((a, b), parts, strict=True)))
    weights = client.get_traffic(endpoint)["weights"]
    assert [weights[a], weights[b]] == pytest.approx(parts, abs=1e-5)
    assert sum(weights.values()) == pytest.approx(1, abs=1e-12)
    assert {type(weight) for weight in weights.values()} == {float}


WRONG = {
    "list": (lambda a, b: [(a, 1)], TypeError, "dict"),
    "none": (lambda a, b: None, TypeError, "None"),
    "tag no str": (lambda a, b: {a: 0.5, 5: 0.5}, TypeError, "5"),
    "bool": (lambda a, b: {a: True}, TypeError, "True"),
    "numpy bool": (lambda a, b: {a: np.bool_(True)}, TypeError, "True"),
    "str": (lambda a, b: {a: "1"}, TypeError, "'1'"),
    "none weight": (lambda a, b: {a: None, b: 1}, TypeError, "None"),
    "complex": (lambda a, b: {a: 1 + 0j}, TypeError, "1"),
    "empty": (lambda a, b: {}, ValueError, "empty"),
    "sum high": (lambda a, b: {a: 0.5, b: 0.6}, ValueError, r"sum to 1\.1"),
    "sum low": (lambda a, b: {a: 0.5, b: 0.4}, ValueError, r"sum to 0\.9"),
    "sum just off": (lambda a, b: {a: 0.5, b: 0.50002}, ValueError, "sum to 1"),
    "all zero": (lambda a, b: {a: 0, b: 0}, ValueError, "sum to 0"),
    "negative": (lambda a, b: {a: -0.5, b: 1.5}, ValueError, r"-0\.5"),
    "nan": (lambda a, b: {a: float("nan"), b: 1}, ValueError, "nan"),
    "inf": (lambda a, b: {a: float("inf"), b: 1}, ValueError, "inf"),
    "numpy nan": (lambda a, b: {a: np.float64("nan"), b: 1}, ValueError, "nan"),
    "huge": (lambda a, b: {a: 1e308, b: 1e308}, ValueError, "sum to"),
    "huge int": (lambda a, b: {a: 10**400}, ValueError, "inf"),
    "unknown": (lambda a, b: {a: 0.5, "no-such": 0.5}, ValueError, "no-such"),
    "unknown at 0": (lambda a, b: {a: 1, "no-such": 0}, ValueError, "no-such"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_weights(client, endpoint, a, b, case):
    """A split that cannot be is refused with the value that is wrong, and nothing at all changes (TR1, TR2, F31)."""
    make, error, text = WRONG[case]
    before = client.get_traffic(endpoint), client.traffic_history(endpoint), client.status()["version"]
    with pytest.raises(error, match=text):
        client.set_traffic(endpoint, make(a, b))
    assert (client.get_traffic(endpoint), client.traffic_history(endpoint), client.status()["version"]) == before


def test_mistyped_names_get_a_hint(client, endpoint, a):
    """I mistype a backend or an endpoint and am told the name that I meant (TR1)."""
    with pytest.raises(ValueError, match=f"did you mean '{a}'"):
        client.set_traffic(endpoint, {a + "a": 1})
    with pytest.raises(ValueError, match=f"did you mean '{endpoint}'"):
        client.set_traffic(endpoint + "_", {a: 1})


def test_a_thousand_mistakes_change_nothing(client, http, endpoint, a, b):
    """A script that keeps sending wrong splits does the live one no harm (TR1, F31)."""
    client.set_traffic(endpoint, {a: 0.25, b: 0.75})
    before = client.get_traffic(endpoint), client.traffic_history(endpoint)
    wrong = [{a: 0.25, b: 0.85}, {a: -1, b: 2}, {"no-such": 1}, {}]
    for number in range(1000):
        with pytest.raises(ValueError):
            client.set_traffic(endpoint, wrong[number % len(wrong)])
    assert (client.get_traffic(endpoint), client.traffic_history(endpoint)) == before
    assert http.get(f"/{endpoint}").headers["x-serve-policy-version"] == str(before[0]["version"])


def test_unknown_endpoints(client, a):
    """Every operation on an endpoint that does not exist says so, with its name (TR1, SH7)."""
    operations = (
        lambda: client.set_traffic("no-such", {a: 1}),
        lambda: client.get_traffic("no-such"),
        lambda: client.traffic_history("no-such"),
        lambda: client.rollback_traffic("no-such"),
        lambda: client.shadow_traffic("no-such", a, 0.5),
        lambda: client.pin("no-such", "key", a),
        lambda: client.unpin("no-such", "key"),
        lambda: client.explain("no-such"),
    )
    for operation in operations:
        with pytest.raises(ValueError, match="no-such"):
            operation()
    with pytest.raises(TypeError, match="5"):
        client.get_traffic(5)


# Looking and going back


def test_what_is_in_force(client, endpoint, a, b, c):
    """One call shows me all that decides about an endpoint's traffic (TR6, SH2)."""
    first = client.get_traffic(endpoint)
    assert first == {
        "version": first["version"],
        "weights": {a: 1.0},
        "shadows": {},
        "policy": "weighted",
        "shard_key": "header:x-serve-shard-key",
        "pins": {},
    }
    client.set_traffic(endpoint, {a: 0.5, b: 0.5})
    client.shadow_traffic(endpoint, c, 0.25)
    client.pin(endpoint, "vip", b)
    now = client.get_traffic(endpoint)
    assert (now["weights"], now["shadows"], now["pins"]) == ({a: 0.5, b: 0.5}, {c: 0.25}, {"vip": b})
    assert now["version"] > first["version"]


def test_history(client, endpoint, a, b, c):
    """I see what was changed, when, by which process, oldest first; the last entry is in force (TR1)."""
    began = datetime.datetime.now(datetime.timezone.utc)
    client.set_traffic(endpoint, {a: 0.5, b: 0.5})
    client.shadow_traffic(endpoint, c, 0.25)
    with pytest.raises(ValueError):
        client.set_traffic(endpoint, {})
    client.pin(endpoint, "a pin is no policy", b)
    history = client.traffic_history(endpoint)
    assert [(entry["change"], entry["weights"], entry["shadows"]) for entry in history[1:]] == [
        ("set_traffic", {a: 0.5, b: 0.5}, {}),
        ("shadow_traffic", {a: 0.5, b: 0.5}, {c: 0.25}),
    ]
    assert (history[0]["weights"], history[0]["shadows"]) == ({a: 1.0}, {})
    versions = [entry["version"] for entry in history]
    assert versions == sorted(set(versions))
    assert versions[-1] == client.get_traffic(endpoint)["version"]
    times = [datetime.datetime.fromisoformat(entry["time"]) for entry in history]
    assert all(time.utcoffset() == datetime.timedelta(0) for time in times)
    assert times == sorted(times)
    a_minute = datetime.timedelta(minutes=1)
    assert began - a_minute < times[-1] < began + a_minute
    for entry in history:
        assert f"pid {os.getpid()}" in entry["by"]
        assert entry["policy"] == "weighted"


def test_rollback(client, http, endpoint, a, b, c):
    """I take the last change back, weights and shadows, or return to any older version; that is a change too (TR4)."""
    client.set_traffic(endpoint, {a: 0.5, b: 0.5})
    client.shadow_traffic(endpoint, c, 0.25)
    middle = client.get_traffic(endpoint)
    client.set_traffic(endpoint, {b: 1})
    client.shadow_traffic(endpoint, c, 0)
    client.rollback_traffic(endpoint)
    assert client.get_traffic(endpoint)["shadows"] == {c: 0.25}
    assert client.get_traffic(endpoint)["weights"] == {b: 1}
    client.rollback_traffic(endpoint, middle["version"])
    now = client.get_traffic(endpoint)
    assert {**now, "version": middle["version"]} == middle
    assert now["version"] > middle["version"]
    assert str(middle["version"]) in client.traffic_history(endpoint)[-1]["change"]
    client.rollback_traffic(endpoint, client.traffic_history(endpoint)[0]["version"])
    assert [http.get(f"/{endpoint}").text for _ in range(20)] == [a] * 20


def test_rollbacks_that_cannot_be(client, endpoint, name, a):
    """A rollback to a version that never was, or to a model that is gone, is refused and changes nothing (TR1)."""
    with pytest.raises(ValueError, match="one traffic policy only"):
        client.rollback_traffic(endpoint)
    client.create_backend(f"{name}-gone", tag_of_backend)
    client.set_traffic(endpoint, {f"{name}-gone": 1})
    gone = client.get_traffic(endpoint)["version"]
    client.set_traffic(endpoint, {a: 1})
    client.delete_backend(f"{name}-gone")
    before = client.get_traffic(endpoint), client.traffic_history(endpoint)
    with pytest.raises(ValueError, match=f"{name}-gone"):
        client.rollback_traffic(endpoint)
    with pytest.raises(ValueError, match=f"{name}-gone"):
        client.rollback_traffic(endpoint, gone)
    with pytest.raises(ValueError, match=rf"999999.*{gone}"):
        client.rollback_traffic(endpoint, 999999)
    for version in ("1", 1.0, True):
        with pytest.raises(TypeError, match=str(version)):
            client.rollback_traffic(endpoint, version)
    assert (client.get_traffic(endpoint), client.traffic_history(endpoint)) == before


def test_the_last_fifty_are_kept(client, endpoint, a, b):
    """The history is bounded: the last 50 policies can be returned to, older ones are forgotten."""
    first = client.get_traffic(endpoint)["version"]
    shares = [number / 64 for number in range(1, 61)]
    for share in shares:
        client.set_traffic(endpoint, {a: 1 - share, b: share})
    history = client.traffic_history(endpoint)
    assert [entry["weights"][b] for entry in history] == shares[-50:]
    with pytest.raises(ValueError, match=str(first)):
        client.rollback_traffic(endpoint, first)
    client.rollback_traffic(endpoint, history[0]["version"])
    assert client.get_traffic(endpoint)["weights"][b] == shares[-50]
    assert len(client.traffic_history(endpoint)) == 50


def test_an_endpoint_of_an_old_name_starts_afresh(client, http, name, backends, a, b):
    """I delete an endpoint and make another of its name: it has no pins, shadows or history of the old one (LC9)."""
    client.create_endpoint(name, backend=a, route=f"/{name}")
    client.set_traffic(name, {b: 1})
    client.pin(name, "vip", b)
    client.shadow_traffic(name, b, 1)
    old = client.get_traffic(name)["version"]
    client.delete_endpoint(name)
    client.create_endpoint(name, backend=a, route=f"/{name}")
    now = client.get_traffic(name)
    assert (now["weights"], now["shadows"], now["pins"]) == ({a: 1.0}, {}, {})
    assert now["version"] > old
    assert [entry["version"] for entry in client.traffic_history(name)] == [now["version"]]
    assert http.get(f"/{name}", headers={"x-serve-shard-key": "vip"}).text == a
    client.delete_endpoint(name)


# What an HTTP client is told


def decision(answer: httpx.Response) -> tuple[str | None, str | None, str | None]:
    """Backend, policy version and request id that an answer names."""
    names = ("x-serve-backend", "x-serve-policy-version", "x-serve-request-id")
    backend, version, request_id = (answer.headers.get(name) for name in names)
    return backend, version, request_id


def test_an_answer_says_who_gave_it(client, http, endpoint, a, b):
    """From any answer I can tell which model gave it, under which policy, and find it in my logs by its id (TR6)."""
    for tag in (a, b):
        client.set_traffic(endpoint, {tag: 1})
        version = str(client.get_traffic(endpoint)["version"])
        answer = http.get(f"/{endpoint}", headers={"x-request-id": f"mine-{tag}"})
        assert answer.text == tag
        assert decision(answer) == (tag, version, f"mine-{tag}")
    _, _, one = decision(http.get(f"/{endpoint}"))
    _, _, other = decision(http.get(f"/{endpoint}"))
    assert one
    assert other
    assert one != other


class Moods:
    def __call__(self, request):
        mood = request.query_params["mood"]
        if mood == "raises":
            raise RuntimeError("no")
        if mood == "streams":
            return (part for part in ("one ", "two"))
        return mood


def test_errors_and_streams_say_it_too(served, client, http, name):
    """When a request fails or is streamed I learn just the same which model it was; a 404 was nobody's."""
    route = served(Moods)
    version = str(client.get_traffic(name)["version"])
    for mood, status, text in (("fine", 200, "fine"), ("raises", 500, "RuntimeError"), ("streams", 200, "one two")):
        answer = http.get(route, params={"mood": mood}, headers={"x-request-id": mood})
        assert (answer.status_code, text in answer.text) == (status, True)
        assert decision(answer) == (name, version, mood)
    chunked = http.post(route, params={"mood": "fine"}, content=iter([b"a", b"b"]), headers={"x-request-id": "chunked"})
    assert decision(chunked) == (name, version, "chunked")
    for nobody in (http.get(f"{route}/missing"), http.delete(route), http.get("/-/healthz")):
        assert decision(nobody) == (None, None, None)


def test_any_name_fits_into_a_header(client, http, name):
    """A backend's name may hold blanks and letters of any script; its header is percent-encoded."""
    tag = f"{name} mo del ü€"
    client.create_backend(tag, tag_of_backend)
    client.create_endpoint(name, backend=tag, route=f"/{name}")
    answer = http.get(f"/{name}")
    assert answer.text == tag
    assert answer.headers["x-serve-backend"] == f"{name}%20mo%20del%20%C3%BC%E2%82%AC"
    client.delete_endpoint(name)
    client.delete_backend(tag)


def test_nothing_is_said_when_switched_off(engine):
    """I do not want strangers to know my models: one option, and no answer says who gave it."""
    with start_client(engine, expose_headers=False) as client, http_for(client) as http:
        client.deploy("secret", Moods, route="/secret")
        for mood in ("fine", "raises", "streams"):
            answer = http.get("/secret", params={"mood": mood})
            assert not [header for header in answer.headers if header.startswith("x-serve")]


# Policies of one's own

ROUND_ROBIN = """
class RoundRobin:
    def choose(self, call, split, draw):
        tags = sorted(split.weights)
        return tags[call.number % len(tags)]
"""

TESTERS = """
class Testers:
    def __init__(self, tester):
        self.tester = tester

    def choose(self, call, split, draw):
        if (b"x-tester", b"yes") in call.headers:
            return self.tester
        return split.by_weight(draw) if call.shard_key is None else split.by_key(call.shard_key)

choose_for_testers = Testers({tester!r})
"""

BROKEN = """
class Broken:
    def choose(self, call, split, draw):
        if call.shard_key == "raise":
            raise RuntimeError("no")
        return "nobody" if call.shard_key == "nobody" else sorted(split.weights)[0]

class NoPolicy:
    pass

not_callable = 5
"""


@pytest.fixture
def module(tmp_path, monkeypatch, name):
    """Writes a module that can be imported here, and returns its name."""

    def write(text):
        (tmp_path / f"policies_{name}.py").write_text(text)
        return f"policies_{name}"

    monkeypatch.syspath_prepend(tmp_path)
    return write


def test_round_robin_by_a_policy_of_my_own(client, http, endpoint, a, b, c, module):
    """I write round robin in four lines, and backends take strict turns over HTTP and through my handle; a new split
    keeps it, and 'weighted' ends it."""
    path = f"{module(ROUND_ROBIN)}:RoundRobin"
    client.set_traffic(endpoint, {a: 0.5, b: 0.5}, policy=path)
    assert client.get_traffic(endpoint)["policy"] == path
    assert client.traffic_history(endpoint)[-1]["policy"] == path
    assert [http.get(f"/{endpoint}").text for _ in range(8)] == [a, b] * 4
    handle = client.get_handle(endpoint)
    assert [handle.remote().result() for _ in range(8)] == [a, b] * 4
    client.set_traffic(endpoint, {a: 0.98, b: 0.01, c: 0.01})
    assert [http.get(f"/{endpoint}").text for _ in range(9)] == [a, b, c] * 3
    client.shadow_traffic(endpoint, c, 0.5)
    assert client.get_traffic(endpoint)["policy"] == path
    client.set_traffic(endpoint, {a: 1, b: 0}, policy="weighted")
    assert client.get_traffic(endpoint)["policy"] == "weighted"
    assert {http.get(f"/{endpoint}").text for _ in range(20)} == {a}
    client.rollback_traffic(endpoint)
    assert client.get_traffic(endpoint)["policy"] == path
    assert [http.get(f"/{endpoint}").text for _ in range(3)] == [a, b, c]


def test_testers_see_what_nobody_else_sees(client, http, endpoint, a, b, module):
    """My testers send a header and get the new model, which has no weight yet; everybody else gets the old one."""
    path = f"{module(TESTERS.format(tester=b))}:choose_for_testers"
    client.set_traffic(endpoint, {a: 1, b: 0}, policy=path)
    for _ in range(10):
        assert http.get(f"/{endpoint}").text == a
        assert http.get(f"/{endpoint}", headers={"x-tester": "yes"}).text == b
    answer = client.get_handle(endpoint).options(http_headers={"X-Tester": "yes"}).remote().result()
    assert answer == b
    explained = client.explain(endpoint, shard_key="user")
    assert (explained["backend"], explained["why"]) == (a, "policy")
    client.pin(endpoint, "user", b)
    assert http.get(f"/{endpoint}", headers={"x-serve-shard-key": "user"}).text == b
    assert client.explain(endpoint, shard_key="user")["why"] == "pin"


GOES_WRONG = ["raise", "nobody"]


@pytest.mark.parametrize("key", GOES_WRONG)
def test_a_policy_that_goes_wrong_loses_no_call(client, http, endpoint, a, b, module, key):
    """My policy raises, or names a backend that there is not: such requests are answered by the built-in choice."""
    client.set_traffic(endpoint, {a: 0, b: 1}, policy=f"{module(BROKEN)}:Broken")
    for shard_key, home in (("fine", a), (key, b)):
        answer = http.get(f"/{endpoint}", headers={"x-serve-shard-key": shard_key})
        assert (answer.status_code, answer.text) == (200, home)
        assert client.get_handle(endpoint).options(shard_key=shard_key).remote().result() == home


@pytest.mark.parametrize("key", GOES_WRONG)
def test_explain_knows_when_a_policy_goes_wrong(client, endpoint, a, b, module, key):
    """I ask why a user gets the backend that my buggy policy did not name, and hear what really happens (SA3)."""
    client.set_traffic(endpoint, {a: 0, b: 1}, policy=f"{module(BROKEN)}:Broken")
    assert client.explain(endpoint, shard_key="fine")["backend"] == a
    assert client.explain(endpoint, shard_key=key)["backend"] == b


@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        ("no_such_module_at_all:X", ValueError, "no_such_module_at_all"),
        ("{module}:Missing", ValueError, "Missing"),
        ("nothing", ValueError, "nothing"),
        ("", ValueError, "''"),
        ("{module}:NoPolicy", TypeError, "choose"),
        ("{module}:not_callable", TypeError, "choose"),
        (5, TypeError, "5"),
    ],
)
def test_what_is_no_policy(client, endpoint, a, b, module, path, error, text):
    """A policy that is not there, or is none, is refused here and now, not in a router's log (TR1)."""
    written = module(BROKEN)
    before = client.get_traffic(endpoint)
    with pytest.raises(error, match=text):
        client.set_traffic(endpoint, {b: 1}, policy=path.format(module=written) if isinstance(path, str) else path)
    assert client.get_traffic(endpoint) == before


def test_a_client_that_was_shut_down_says_so(engine):
    """After shutdown every operation on traffic says why it does nothing (IN12)."""
    client = start_client(engine, location=None)
    client.deploy("a", tag_of_backend)
    client.shutdown()
    operations = (
        lambda: client.set_traffic("a", {"a": 1}),
        lambda: client.get_traffic("a"),
        lambda: client.traffic_history("a"),
        lambda: client.rollback_traffic("a"),
        lambda: client.shadow_traffic("a", "a", 0.5),
        lambda: client.pin("a", "key", "a"),
        lambda: client.unpin("a", "key"),
        lambda: client.explain("a"),
    )
    for operation in operations:
        with pytest.raises(ServeException, match="shut down"):
            operation()
