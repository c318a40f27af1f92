"""Shadows: copies of calls whose answers nobody sees."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pointsman.exceptions import BackpressureError
from tests.conformance.traffic import ask_often, range_of
from tests.conftest import wait_until

COPIES = 100
"""As many as may be under way at once: however slow the shadow is, none of them is dropped."""


def assert_chance_number(notes, count, probability):
    low, high = range_of(count, probability)
    assert low <= len(notes) <= high


@pytest.mark.parametrize("way", ["http", "handle"])
def test_three_shadows(client, backends, endpoint, way):
    """I try three models on copies of my traffic: users see the old one only, and each gets its share of copies
    (SH1, SH8, SH10)."""
    a, b, c, d, e = backends.tags
    for tag, proportion in ((b, 1.0), (c, 0.5), (d, 0.1)):
        client.shadow_traffic(endpoint, tag, proportion)
    if way == "http":
        answers = ask_often(client, f"/{endpoint}", COPIES)
    else:
        handle = client.get_handle(endpoint)
        answers = [handle.remote().result() for _ in range(COPIES)]
    assert answers == [a] * COPIES
    for tag, proportion in ((b, 1.0), (c, 0.5), (d, 0.1)):
        backends.wait_for_notes(tag, endpoint, range_of(COPIES, proportion)[0])
    assert len(backends.notes(b, endpoint)) == COPIES
    assert_chance_number(backends.notes(c, endpoint), COPIES, 0.5)
    assert_chance_number(backends.notes(d, endpoint), COPIES, 0.1)
    assert backends.notes(e, endpoint) == []


def test_copies_are_drawn_apart_from_answers(client, http, backends, endpoint):
    """Copies come from the requests of both models alike, not from those that one of them answers (SH8)."""
    a, b, c, *_ = backends.tags
    client.set_traffic(endpoint, {a: 0.5, b: 0.5})
    client.shadow_traffic(endpoint, c, 0.5)
    answered_by = {}
    for number in range(COPIES):
        answered_by[str(number)] = http.get(f"/{endpoint}", params={"n": number}).text
    low, high = range_of(COPIES, 0.25)

    def copied():
        counts = Counter(answered_by[note["params"]["n"]] for note in backends.notes(c, endpoint))
        return counts[a], counts[b]

    backends.wait_for_notes(c, endpoint, range_of(COPIES, 0.5)[0])
    assert all(low <= count <= high for count in copied()), copied()


def test_keys_do_not_decide_about_copies(client, http, backends, endpoint):
    """Half of the requests of one user are copied, not all or none of them; the copies carry the key (SH8)."""
    shadow = backends.tags[1]
    client.shadow_traffic(endpoint, shadow, 0.5)
    for _ in range(COPIES):
        http.get(f"/{endpoint}", headers={"x-serve-shard-key": "one user"})
    backends.wait_for_notes(shadow, endpoint, range_of(COPIES, 0.5)[0])
    assert_chance_number(backends.notes(shadow, endpoint), COPIES, 0.5)
    assert {note["key"] for note in backends.notes(shadow, endpoint)} == {"one user"}


def test_a_backend_may_be_both(client, http, backends, endpoint):
    """The model that answers may get copies too, and knows by a header which calls are copies (SH10)."""
    tag = backends.tags[0]
    client.shadow_traffic(endpoint, tag, 1)
    for _ in range(20):
        assert http.get(f"/{endpoint}").text == tag
    backends.wait_for_notes(tag, endpoint, 40)
    assert Counter(note["shadow"] for note in backends.notes(tag, endpoint)) == {None: 20, "1": 20}


def test_a_client_cannot_pose_as_a_copy(client, http, backends, endpoint):
    """Nobody gets past my bookkeeping with a forged header: user code sees the mark on true copies only (SH4)."""
    primary, shadow, *_ = backends.tags
    client.shadow_traffic(endpoint, shadow, 1)
    for forged in ("1", "0"):
        headers = [(b"X-Serve-Shadow", forged.encode()), (b"x-serve-SHADOW", b"1")]
        assert http.get(f"/{endpoint}", headers=headers).text == primary
        assert http.post(f"/{endpoint}", headers=headers, content=iter([b"chunked"])).text == primary
    backends.wait_for_notes(shadow, endpoint, 4)
    assert [note["shadow"] for note in backends.notes(primary, endpoint)] == [None] * 4
    assert [note["shadow"] for note in backends.notes(shadow, endpoint)] == ["1"] * 4


def test_copies_are_whole(client, http, backends, endpoint):
    """A copy has the method, parameters, key and body of the request, large and chunked ones too (SH1)."""
    primary, shadow, *_ = backends.tags
    client.shadow_traffic(endpoint, shadow, 1)
    chunks = [os.urandom(100_000) for _ in range(20)]
    whole = b"".join(chunks)
    for content in (b"small", whole, iter(chunks)):
        answer = http.post(f"/{endpoint}?a=1", content=content, headers={"x-serve-shard-key": "k"})
        assert answer.text == primary
    backends.wait_for_notes(shadow, endpoint, 3)
    notes, copies = backends.notes(primary, endpoint), backends.notes(shadow, endpoint)
    assert [note["body"] for note in notes] == [hashlib.sha256(body).hexdigest() for body in (b"small", whole, whole)]
    by_body = sorted(copies, key=lambda note: note["body"])
    assert by_body == [{**note, "shadow": "1"} for note in sorted(notes, key=lambda note: note["body"])]
    assert by_body[0]["params"] == {"a": "1"}
    assert (by_body[0]["method"], by_body[0]["key"]) == ("POST", "k")


def test_copies_of_handle_calls(client, backends, endpoint):
    """Calls from Python are copied with their objects, arguments and options; the method is called as well (SH1)."""
    primary, shadow, *_ = backends.tags
    client.shadow_traffic(endpoint, shadow, 1)
    handle = client.get_handle(endpoint).options(shard_key="zoë", http_method="PUT")
    data = {"array": np.arange(3).tolist(), 5: ("a", b"b", None)}
    assert handle.remote(data, number=5).result() == primary
    backends.wait_for_notes(shadow, endpoint, 1)
    (note,), (copy,) = backends.notes(primary, endpoint), backends.notes(shadow, endpoint)
    assert copy == {**note, "shadow": "1"}
    assert (copy["body"], copy["params"], copy["method"]) == (data, {"number": 5}, "PUT")


class Streams:
    """Streams more than any buffer on the way holds."""

    def __init__(self):
        self.ended = threading.Event()

    def __call__(self, request):
        for _ in range(200):
            yield b"x" * 65536
        self.ended.set()

    def has_ended(self, request):
        return self.ended.wait(30)


def test_streamed_answers_of_a_shadow_are_read(client, http, name, backends, endpoint):
    """A shadow that streams does all of its work, although nobody looks at it (SH4)."""
    client.create_backend(f"{name}-streams", Streams)
    client.create_endpoint(f"{name}-streams", backend=f"{name}-streams")
    client.shadow_traffic(endpoint, f"{name}-streams", 1)
    assert http.get(f"/{endpoint}").text == backends.tags[0]
    client.shadow_traffic(endpoint, f"{name}-streams", 0)
    assert client.get_handle(f"{name}-streams").options(method_name="has_ended").remote().result()
    client.delete_endpoint(f"{name}-streams")
    client.delete_backend(f"{name}-streams")


def raises(request):
    raise RuntimeError("a shadow's own trouble")


def hangs(request):
    threading.Event().wait()


def dies(request):
    os._exit(3)


@pytest.mark.parametrize("trouble", [raises, hangs, dies], ids=lambda trouble: trouble.__name__)
def test_a_shadow_in_trouble_is_nobodys_trouble(client, http, name, backends, endpoint, trouble):
    """The model under trial fails, hangs or dies with every request, many more than it can hold: my users get their
    answers (SH4, SH9)."""
    client.create_backend(f"{name}-bad", trouble, config={"max_concurrent_queries": 10, "max_queued_queries": 5})
    client.shadow_traffic(endpoint, f"{name}-bad", 1)
    assert ask_often(client, f"/{endpoint}", 400) == [backends.tags[0]] * 400
    handle = client.get_handle(endpoint)
    futures = [handle.remote(number) for number in range(400)]
    assert {future.result() for future in futures} == {backends.tags[0]}
    assert http.post(f"/{endpoint}", content=iter([b"chunk"])).text == backends.tags[0]
    client.shadow_traffic(endpoint, f"{name}-bad", 0)
    client.delete_backend(f"{name}-bad", force=True)
    assert http.get(f"/{endpoint}").text == backends.tags[0]


class Held:
    """Notes in which order calls start, and holds copies until a file is there."""

    def __init__(self, go):
        self.go = Path(go)
        self.order = []

    async def __call__(self, request):
        is_copy = "x-serve-shadow" in request.headers
        self.order.append("copy" if is_copy else "user")
        while is_copy and not self.go.exists():
            await asyncio.sleep(0.01)
        return "answered"

    async def order_of_calls(self, request):
        return self.order


def test_copies_do_not_stand_in_the_way_of_users(client, name, backends, endpoint, tmp_path):
    """A model under trial also has users of its own: copies fill neither their queue nor go before them (SH9)."""
    both = f"{name}-both"
    client.create_backend(
        both, Held, str(tmp_path / "go"), config={"max_concurrent_queries": 4, "max_queued_queries": 2}
    )
    client.create_endpoint(both, backend=both)
    client.shadow_traffic(endpoint, both, 1)
    handle = client.get_handle(endpoint)
    assert [handle.remote().result() for _ in range(10)] == [backends.tags[0]] * 10
    users = client.get_handle(both).options(queue_full="raise")
    waiting = [users.remote() for _ in range(4)]  # two find room, since copies leave half of it, and two wait
    with pytest.raises(BackpressureError):
        users.remote().result()
    (tmp_path / "go").touch()
    assert [future.result() for future in waiting] == ["answered"] * 4
    orders = client.get_handle(both).options(method_name="order_of_calls")
    wait_until(lambda: len(orders.remote().result()) == 14, what="all copies have come")
    assert orders.remote().result() == ["copy"] * 2 + ["user"] * 4 + ["copy"] * 8
    client.shadow_traffic(endpoint, both, 0)
    client.delete_endpoint(both)
    client.delete_backend(both)


def test_listing_and_ending(client, http, backends, endpoint):
    """I see my shadows in the list and end one with 0; ending one that there is not does nothing (SH2, SH3)."""
    _, b, c, *_ = backends.tags
    client.shadow_traffic(endpoint, b, 1)
    client.shadow_traffic(endpoint, c, np.float32(0.5))
    client.shadow_traffic(endpoint, c, 0.25)
    assert client.list_endpoints()[endpoint]["shadows"] == {b: 1.0, c: 0.25}
    client.shadow_traffic(endpoint, b, 0)
    assert client.list_endpoints()[endpoint]["shadows"] == {c: 0.25}
    client.shadow_traffic(endpoint, c, 0.0)
    before = client.get_traffic(endpoint), client.traffic_history(endpoint)
    client.shadow_traffic(endpoint, c, 0)
    assert (client.get_traffic(endpoint), client.traffic_history(endpoint)) == before
    assert before[0]["shadows"] == {}
    http.get(f"/{endpoint}")
    assert backends.notes(b, endpoint) == []


def test_a_shadow_cannot_be_deleted(client, endpoint, name, backends):
    """A backend that gets copies is in use; ended with 0 it can go (SH3, SH6)."""
    client.create_backend(f"{name}-tried", raises)
    client.shadow_traffic(endpoint, f"{name}-tried", 0.01)
    for force in (False, True):
        with pytest.raises(ValueError, match=rf"'{endpoint}' \(as a shadow\)"):
            client.delete_backend(f"{name}-tried", force=force)
    client.shadow_traffic(endpoint, f"{name}-tried", 0)
    client.delete_backend(f"{name}-tried")


@pytest.mark.parametrize(
    ("tag", "proportion", "error", "text"),
    [
        ("shadows-b", "0.5", TypeError, "'0.5'"),
        ("shadows-b", None, TypeError, "None"),
        ("shadows-b", True, TypeError, "True"),
        ("shadows-b", 1j, TypeError, "1j"),
        ("shadows-b", -0.1, ValueError, r"-0\.1"),
        ("shadows-b", 1.0001, ValueError, r"1\.0001"),
        ("shadows-b", float("nan"), ValueError, "nan"),
        ("shadows-b", float("inf"), ValueError, "inf"),
        ("shadows-b", 10**400, ValueError, "inf"),
        ("shadows-z", 0.5, ValueError, "did you mean 'shadows-"),
        ("shadows-z", 0, ValueError, "shadows-z"),
        (5, 0.5, TypeError, "5"),
    ],
    ids=lambda value: getattr(value, "__name__", f"{value!s:.20}"),
)
def test_bad_shadows(client, endpoint, backends, tag, proportion, error, text):
    """A shadow that cannot be is refused with the value that is wrong, and nothing changes (SH7)."""
    before = client.get_traffic(endpoint), client.traffic_history(endpoint)
    with pytest.raises(error, match=text):
        client.shadow_traffic(endpoint, tag, proportion)
    assert (client.get_traffic(endpoint), client.traffic_history(endpoint)) == before
