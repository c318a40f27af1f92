"""Shard keys, pins, and why a request goes where it goes."""

from __future__ import annotations

import random
from collections import Counter

import pytest

import pointsman as serve
from tests.conformance.traffic import Noted, range_of
from tests.conftest import UNWATCHED, wait_until

KEY = "x-serve-shard-key"


@pytest.fixture
def halves(client, backends, endpoint):
    """The endpoint, split evenly between two backends."""
    client.set_traffic(endpoint, dict.fromkeys(backends.tags[:2], 0.5))
    return endpoint


def home_over_http(http, endpoint, key):
    """The backend that answers a request with this key, or without one when it is None."""
    answer = http.get(f"/{endpoint}", headers=[] if key is None else [(KEY.encode(), key.encode())])
    assert answer.status_code == 200
    assert answer.headers["x-serve-backend"] == answer.text
    return answer.text


def test_twenty_keys_of_five_backends(client, http, backends, endpoint):
    """Each of my users always meets the same of five models, however the calls come in (SA1)."""
    client.set_traffic(endpoint, dict.fromkeys(backends.tags, 0.2))
    handle = client.get_handle(endpoint)
    homes = set()
    for _ in range(20):
        key = random.randbytes(8).hex()
        mine = handle.options(shard_key=key)
        answers = [home_over_http(http, endpoint, key) for _ in range(5)] + [mine.remote().result() for _ in range(5)]
        assert len(set(answers)) == 1, f"key {key!r} reached {Counter(answers)}"
        homes.add(answers[0])
    assert len(homes) > 1  # all twenty at one backend: once in 10**13 runs


def test_a_key_does_not_tie_a_user_to_a_replica(client, name):
    """My biggest customer's requests all have one key, and still use all replicas of the customer's model (SA4)."""
    client.create_backend(name, lambda request: serve.get_current_replica_tag(), config={"num_replicas": 2})
    client.create_endpoint(name, backend=name)
    handle = client.get_handle(name).options(shard_key="big customer")
    wait_until(lambda: len({handle.remote().result() for _ in range(10)}) == 2, what="ten requests reach both")
    client.delete_endpoint(name)
    client.delete_backend(name)


def test_explain_agrees_with_what_happens(client, http, backends, endpoint):
    """Before a user complains I can ask where a key goes and why, and that is where it goes (SA3)."""
    weights = dict(zip(backends.tags, (0.4, 0.3, 0.2, 0.1, 0), strict=True))
    client.set_traffic(endpoint, weights)
    for number in range(100):
        key = f"user {number}"
        explained = client.explain(endpoint, shard_key=key)
        assert explained["backend"] == home_over_http(http, endpoint, key)
        numbers = explained.pop("numbers")
        assert explained == {
            "endpoint": endpoint,
            "shard_key": key,
            "backend": min(numbers, key=numbers.get),
            "why": "shard key",
            "policy_version": client.get_traffic(endpoint)["version"],
            "weights": weights,
        }
        assert set(numbers) == set(backends.tags[:4])
    without = client.explain(endpoint)
    assert (without["backend"], without["why"], without["numbers"]) == (None, "weight", {})


GOLDEN = {
    "": "affinity-b",
    "user-1": "affinity-a",
    "user-2": "affinity-c",
    "user-3": "affinity-b",
    "user-12": "affinity-d",
    "zoë": "affinity-a",
    "日本": "affinity-a",
    "a b;c=d": "affinity-a",
    "🙂": "affinity-c",
    "x" * 256: "affinity-c",
}


def test_the_map_is_what_it_was(client, http, backends):
    """After an update of Pointsman, on any machine, my users are still where they were (SA3, SA6)."""
    tags = backends.tags[:4]
    client.create_endpoint("golden", backend=tags[0], route="/golden")
    shuffled = dict(random.sample(list(zip(tags, (0.4, 0.3, 0.2, 0.1), strict=True)), 4))
    client.set_traffic("golden", shuffled)
    handle = client.get_handle("golden")
    assert {key: home_over_http(http, "golden", key) for key in GOLDEN} == GOLDEN
    assert {key: handle.options(shard_key=key).remote().result() for key in GOLDEN} == GOLDEN
    assert {key: client.explain("golden", shard_key=key)["backend"] for key in GOLDEN} == GOLDEN
    client.delete_endpoint("golden")


def test_only_keys_that_must_move_do(client, backends, endpoint):
    """A third model of weight 0, or the order in which I write weights, moves nobody; its first 10 % come from the
    others, and a rollback brings everyone home (SA7, SA8)."""
    a, b, c = backends.tags[:3]
    handle = client.get_handle(endpoint)
    keyed = [handle.options(shard_key=f"user {number}") for number in range(1000)]

    def homes():
        return serve.get([one.remote() for one in keyed])

    client.set_traffic(endpoint, {a: 0.5, b: 0.5})
    before = homes()
    low, high = range_of(1000, 0.5)
    assert low <= before.count(a) <= high
    client.set_traffic(endpoint, {c: 0, b: 0.5, a: 0.5})
    assert homes() == before
    client.set_traffic(endpoint, {a: 0.45, b: 0.45, c: 0.1})
    moved = [there for home, there in zip(before, homes(), strict=True) if home != there]
    assert set(moved) == {c}
    low, high = range_of(1000, 0.1)
    assert low <= len(moved) <= high
    client.rollback_traffic(endpoint)
    assert homes() == before


def test_no_key_is_no_key(client, http, backends, halves):
    """The empty string is a key like any other; without a key each call is drawn anew, and None takes a key away
    (SA5, TR3)."""
    handle = client.get_handle(halves).options(shard_key="")
    homes = {home_over_http(http, halves, "") for _ in range(30)} | {handle.remote().result() for _ in range(30)}
    assert homes == {client.explain(halves, shard_key="")["backend"]}
    without = {handle.options(shard_key=None).remote().result() for _ in range(60)}
    assert without == {home_over_http(http, halves, None) for _ in range(60)} == set(backends.tags[:2])  # 2**-58


@pytest.mark.parametrize("key", ["zoë", "日本語", "🙂", "a b;c=d,e", "x" * 256, "ö" * 128])
def test_any_text_is_a_key(client, http, backends, halves, key):
    """A key in my users' own script means the same as the bytes of a header and as an option, to user code as well
    (SA5)."""
    homes = {home_over_http(http, halves, key), client.get_handle(halves).options(shard_key=key).remote().result()}
    assert homes == {client.explain(halves, shard_key=key)["backend"]}
    seen = [note["key"].encode("latin-1").decode() for note in backends.notes(homes.pop(), halves)]
    assert seen == [key, key]


@pytest.mark.parametrize("key", [5, b"bytes", 1.5, True, {"a"}], ids=str)
def test_keys_are_text(client, halves, key):
    """A number as a key is my mistake, and I hear of it where I made it (SA5)."""
    for use in (
        lambda: client.get_handle(halves).options(shard_key=key),
        lambda: client.explain(halves, shard_key=key),
        lambda: client.pin(halves, key, "affinity-a"),
        lambda: client.unpin(halves, key),
    ):
        with pytest.raises(TypeError, match="shard_key must be a str"):
            use()
    with pytest.raises(TypeError, match="None"):
        client.pin(halves, None, "affinity-a")


@pytest.mark.parametrize(("key", "text"), [("x" * 257, "257 bytes"), ("ö" * 129, "258 bytes"), ("\ud800", "UTF-8")])
def test_keys_have_limits(client, halves, key, text):
    """A key over 256 bytes, or half a character, is refused at the option already (SA5)."""
    for use in (
        lambda: client.get_handle(halves).options(shard_key=key),
        lambda: client.explain(halves, shard_key=key),
        lambda: client.pin(halves, key, "affinity-a"),
    ):
        with pytest.raises(ValueError, match=text):
            use()


@pytest.mark.parametrize(("key", "text"), [(b"x" * 257, "256 bytes"), (b"\xff\xfe", "UTF-8")], ids=["long", "bytes"])
def test_bad_keys_over_http(http, halves, key, text):
    """A client that sends a key that cannot be one is told so; nobody else notices (SA5)."""
    answer = http.get(f"/{halves}", headers=[(KEY.encode(), key)])
    assert answer.status_code == 400
    assert text in answer.json()["error"]
    assert "x-serve-backend" not in answer.headers
    assert home_over_http(http, halves, "good")


SOURCES = {
    "header:X-User": lambda key: {"headers": [(b"x-user", key.encode())]},
    "cookie:session": lambda key: {"headers": [(b"cookie", b'theme=dark; session="' + key.encode() + b'"; z=1')]},
    "query:user": lambda key: {"params": {"page": "1", "user": key}},
}


@pytest.mark.parametrize("source", SOURCES)
def test_where_the_key_is(client, http, backends, name, source):
    """My users are told apart by what they send anyway, a header, cookie or parameter; the default header then says
    nothing (SA1, SA5)."""
    a, b = backends.tags[:2]
    client.create_endpoint(name, backend=a, route=f"/{name}", methods=["GET", "POST"], shard_key=source)
    client.set_traffic(name, {a: 0.5, b: 0.5})
    kind, _, text = source.partition(":")
    assert client.get_traffic(name)["shard_key"] == f"{kind}:{text.lower() if kind == 'header' else text}"
    send = SOURCES[source]
    for number in range(20):
        key = f"zoë&{number}"
        home = client.explain(name, shard_key=key)["backend"]
        assert {http.get(f"/{name}", **send(key)).text for _ in range(3)} == {home}
        assert http.post(f"/{name}", **send(key), content=iter([b"chunk"])).text == home
        assert client.get_handle(name).options(shard_key=key).remote().result() == home
    other = [(KEY.encode(), b"always the same")]
    assert {http.get(f"/{name}", headers=other).text for _ in range(60)} == {a, b}
    assert http.get(f"/{name}", **send("x" * 257)).status_code == 400
    client.delete_endpoint(name)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (5, TypeError),
        (None, TypeError),
        ("x-user", ValueError),
        ("header:", ValueError),
        ("header:a b", ValueError),
        ("header:ö", ValueError),
        ("body:user", ValueError),
        ("cookie:a;b", ValueError),
        ("query:", ValueError),
        ("Header:x-user", ValueError),
        ("", ValueError),
    ],
)
def test_bad_sources(client, backends, name, source, error):
    """A source of keys that there is not is refused with the three forms that there are, and no endpoint is made."""
    with pytest.raises(error, match="header:"):
        client.create_endpoint(name, backend=backends.tags[0], shard_key=source)
    assert name not in client.list_endpoints()


def test_deploy_keeps_the_source(client, http, name):
    """I say once at deploy where keys are; a new version of the code keeps that, unless I say otherwise (DP3)."""
    client.deploy(name, Noted, route=f"/{name}", shard_key="cookie:session", config=UNWATCHED)
    client.deploy(name, Noted)
    assert client.get_traffic(name)["shard_key"] == "cookie:session"
    assert http.get(f"/{name}", headers={"cookie": f"session={'x' * 257}"}).status_code == 400
    client.deploy(name, Noted, shard_key="query:user")
    assert client.get_traffic(name)["shard_key"] == "query:user"
    assert http.get(f"/{name}", headers={"cookie": f"session={'x' * 257}"}).status_code == 200
    with pytest.raises(ValueError, match="header:"):
        client.deploy(name, Noted, shard_key="nonsense")
    assert client.get_traffic(name)["shard_key"] == "query:user"
    client.delete_endpoint(name)
    client.delete_backend(name)


# Pins


def owner_and_other(client, endpoint, key, tags):
    """The backend that a key belongs to, and another."""
    home = client.explain(endpoint, shard_key=key)["backend"]
    return home, next(tag for tag in tags if tag != home)


def test_a_pin_wins(client, http, backends, halves):
    """I send one important customer to the model I want, whatever the weights say, and back again (SA3)."""
    home, other = owner_and_other(client, halves, "vip", backends.tags[:2])
    handle = client.get_handle(halves).options(shard_key="vip")
    client.pin(halves, "vip", other)
    assert home_over_http(http, halves, "vip") == handle.remote().result() == other
    explained = client.explain(halves, shard_key="vip")
    assert (explained["backend"], explained["why"], explained["numbers"]) == (other, "pin", {})
    client.set_traffic(halves, {home: 1})
    assert home_over_http(http, halves, "vip") == handle.remote().result() == other
    assert home_over_http(http, halves, "somebody else") == home
    client.pin(halves, "vip", home)
    assert home_over_http(http, halves, "vip") == home
    assert client.get_traffic(halves)["pins"] == {"vip": home}
    client.unpin(halves, "vip")
    assert client.explain(halves, shard_key="vip")["why"] == "shard key"
    assert client.get_traffic(halves)["pins"] == {}


def test_a_pin_needs_no_weight(client, http, backends, halves):
    """One colleague tries the new model before it gets any traffic, and nobody else meets it (SA3)."""
    hidden = backends.tags[2]
    version = client.get_traffic(halves)["version"]
    client.pin(halves, "kollegin zoë", hidden)
    client.pin(halves, "", hidden)
    assert home_over_http(http, halves, "kollegin zoë") == home_over_http(http, halves, "") == hidden
    assert client.get_handle(halves).options(shard_key="kollegin zoë").remote().result() == hidden
    assert hidden not in {home_over_http(http, halves, key) for key in (None, "zoë", "kollegin zoe") for _ in range(20)}
    assert hidden not in client.list_endpoints()[halves]["traffic"]
    assert client.get_traffic(halves)["version"] == version


def test_a_backend_with_pins_cannot_be_deleted(client, http, halves, name):
    """The model of my important customer is not deleted from under them (SH6)."""
    client.create_backend(f"{name}-vip", Noted)
    client.pin(halves, "vip", f"{name}-vip")
    with pytest.raises(ValueError, match=rf"'{halves}'.*1 pinned"):
        client.delete_backend(f"{name}-vip")
    client.unpin(halves, "vip")
    client.delete_backend(f"{name}-vip")
    assert home_over_http(http, halves, "vip") == client.explain(halves, shard_key="vip")["backend"]


def test_ten_thousand_pins(client, http, backends, halves):
    """I pin a list of ten thousand customers, the most there may be, in one change; all else goes on as it was."""
    a, b = backends.tags[:2]
    customers = [f"customer {number}" for number in range(10_000)]
    before = client.get_traffic(halves)["version"], client.status()["version"]
    client.pin(halves, customers, b)
    assert (client.get_traffic(halves)["version"], client.status()["version"]) == (before[0], before[1] + 1)
    assert client.get_traffic(halves)["pins"] == dict.fromkeys(customers, b)
    for keys in ("one more", ["customer 7", "one more"], [*customers, "one more"]):
        with pytest.raises(ValueError, match=r"1000[01]"):
            client.pin(halves, keys, a)
    client.set_traffic(halves, {a: 1})
    handle = client.get_handle(halves)
    for customer in customers[::999]:
        assert http.get(f"/{halves}", headers={"x-serve-shard-key": customer}).text == b
        assert handle.options(shard_key=customer).remote().result() == b
    assert http.get(f"/{halves}", headers={"x-serve-shard-key": "one more"}).text == a
    client.unpin(halves, customers)
    assert client.get_traffic(halves)["pins"] == {}
    assert http.get(f"/{halves}", headers={"x-serve-shard-key": "customer 7"}).text == a


def test_unpin_of_what_is_not_pinned(client, halves, caplog):
    """Unpinning twice is a warning that names the key, and no error (LC9)."""
    version = client.status()["version"]
    client.unpin(halves, "never-pinned")
    assert "never-pinned" in caplog.text
    assert client.status()["version"] == version


@pytest.mark.parametrize(
    ("key", "backend", "error", "text"),
    [
        ("k", 5, TypeError, "5"),
        ("k", None, TypeError, "None"),
        ("k", "affinity-z", ValueError, "did you mean 'affinity-"),
        ("k", "", ValueError, "backend"),
        (["k", 5], "affinity-a", TypeError, "5"),
        (["k", "x" * 257], "affinity-a", ValueError, "256"),
        (["k"], "affinity-z", ValueError, "affinity-z"),
        ("x" * 257, "affinity-a", ValueError, "256"),
    ],
)
def test_bad_pins(client, halves, key, backend, error, text):
    """A pin to a model that there is not is refused with the name I meant, and nothing is pinned."""
    with pytest.raises(error, match=text):
        client.pin(halves, key, backend)
    assert client.get_traffic(halves)["pins"] == {}


def test_user_code_sees_the_key(client, backends, halves):
    """My model reads the key of a call from the same header, whether it came over HTTP or through a handle (SA5)."""
    home = client.explain(halves, shard_key="user 1")["backend"]
    handle = client.get_handle(halves)
    handle.options(shard_key="user 1").remote("with").result()
    assert [(note["body"], note["key"]) for note in backends.notes(home, halves)] == [("with", "user 1")]
    handle.remote("without").result()
    notes = [note for tag in backends.tags[:2] for note in backends.notes(tag, halves)]
    assert {note["body"]: note["key"] for note in notes} == {"without": None, "with": "user 1"}


def test_keys_in_a_url_are_decoded(client, http, backends, name):
    """However a browser escapes a key in the query string, it is the same key (SA5)."""
    a, b = backends.tags[:2]
    client.create_endpoint(name, backend=a, route=f"/{name}", shard_key="query:user")
    client.set_traffic(name, {a: 0, b: 1})
    client.pin(name, "zoë & co", a)
    for query in ("user=zo%C3%AB+%26+co", "user=zo%c3%ab%20%26%20co", "x=1&us%65r=zo%C3%AB%20%26+co&user=second"):
        assert http.get(f"/{name}?{query}").text == a, query
    assert http.get(f"/{name}?user=zo%EB").status_code == 400
    assert http.get(f"/{name}?user=zoe&user=zo%C3%AB+%26+co").text == b
    client.delete_endpoint(name)
