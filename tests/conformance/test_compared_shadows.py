"""Shadows whose answers are compared: what came of it, by the public interface."""

from __future__ import annotations

import pytest

import pointsman as serve
from tests.conftest import wait_until
from tests.properties import PROFILE


def old(request):
    """Answers with a label, a score and a time; or with two mebibytes, or a stream."""
    label = request.query_params.get("label", "cat")
    if label == "large":
        return b"x" * 2 * 1024 * 1024
    if label == "stream":
        return iter([b"one ", b"old"])
    return {"label": label, "score": 0.5, "took_ms": 1}


def new(request):
    """The same but for dogs, streams, and another time; and it has troubles of its own."""
    label = request.query_params.get("label", "cat")
    if label == "error":
        raise ValueError("the new model's trouble")
    if label == "stream":
        return iter([b"one ", b"new"])
    return {"label": "wolf" if label == "dog" else label, "score": 0.5000001, "took_ms": 2}


@pytest.fixture
def compared(client, http, shared, standing, name):
    """Sends requests to an endpoint with a shadow, and returns the report once all are compared."""
    shared(old)
    tag = standing(new)

    def ask(labels, **options):
        client.shadow_traffic(name, tag, 1.0, **options)
        began = done(client.shadow_report(name, tag))
        for label in labels:
            assert http.get(f"/{name}", params={"label": label}).json()["label"] == label
        wait_until(
            lambda: done(client.shadow_report(name, tag)) >= began + len(labels), what="all answers to be compared"
        )
        return client.shadow_report(name, tag)

    ask.tag = tag
    return ask


def done(report):
    return report["pairs"] + sum(report["uncompared"].values())


def test_a_report_says_how_often_answers_differ(client, compared, name):
    """I see how many answers of my new model differ, in what and on which route; and examples, without what I want to
    keep secret (SC2, SC6, SC7, SC8)."""
    report = compared(
        ["cat"] * 6 + ["dog"] * 3 + ["error"],
        compare=serve.compare.json(ignore=["$.took_ms"], rel=1e-3),
        noise=0,
        redact=["$.score"],
    )
    assert (report["pairs"], report["matched"], report["mismatched"]) == (10, 6, 4)
    assert report["by_kind"] == {"value": 3, "error": 1}
    assert report["by_route"] == {f"GET /{name}": {"pairs": 10, "mismatched": 4}}
    assert report["uncompared"] == {}
    assert report["noise"] is report["above_noise"] is None
    rate = report["mismatch_rate"]
    assert rate["value"] == 0.4
    assert 0 < rate["low"] < 0.4 < rate["high"] < 1
    assert report["latency"]["pairs"] == 9

    examples = client.shadow_examples(name, compared.tag)
    assert [(example["kind"], example["where"]) for example in examples] == [
        ("error", ""),
        *[("value", "$.label")] * 3,
    ]
    worst = client.shadow_examples(name, compared.tag, limit=2)[1]
    assert worst["primary"]["body"] == {"label": "dog", "score": "[redacted]", "took_ms": 1}
    assert worst["shadow"]["body"]["label"] == "wolf"
    assert worst["route"] == f"GET /{name}"


def test_other_options_begin_afresh(client, compared, name):
    """With another comparison, or none, what was counted before is gone (SC1, SC12)."""
    assert compared(["cat"] * 3, compare="exact")["mismatched"] == 3
    compared(["cat"])  # as it was
    report = compared(["cat"] * 3, compare=serve.compare.json(ignore=["$.took_ms", "$.score"]))
    assert (report["pairs"], report["mismatched"]) == (3, 0)
    assert client.shadow_examples(name, compared.tag) == []
    client.shadow_traffic(name, compared.tag, 1.0, compare="none")
    for ask in (client.shadow_report, client.shadow_examples):
        with pytest.raises(ValueError, match=r"has no shadow .* whose answers are compared"):
            ask(name, compared.tag)


def test_new_code_begins_afresh(client, http, shared, name):
    """When I replace the shadow's code, the report is about the new code only (SC12)."""
    shared(old)
    tag = f"{name}-shadow"
    client.create_backend(tag, new, config={"rollout_watch_s": 0.0})
    try:
        client.shadow_traffic(name, tag, 1.0, compare=serve.compare.json(ignore=["$.took_ms"], rel=1e-3), noise=1)

        def ask(count):
            before = client.shadow_report(name, tag)
            for _ in range(count):
                http.get(f"/{name}", params={"label": "dog"})
            pairs = before["pairs"] + count, before["noise"]["pairs"] + count
            wait_until(
                lambda: (
                    (
                        (report := client.shadow_report(name, tag))["pairs"],
                        report["noise"]["pairs"],
                    )
                    == pairs
                ),
                what="all answers to be compared",
            )
            return client.shadow_report(name, tag)

        before = ask(20)
        assert before["mismatched"] == 20
        assert before["noise"] == {"pairs": 20, "mismatched": 0, "rate": 0.0}
        assert before["above_noise"]["e"] > 1
        client.replace_backend(tag, old)
        after = client.shadow_report(name, tag)
        assert (after["pairs"], after["noise"]["pairs"], after["above_noise"]["e"]) == (0, 0, 1.0)
        assert after["since"] > before["since"]
        assert client.shadow_examples(name, tag) == []
        assert ask(5)["mismatched"] == 0
    finally:
        client.shadow_traffic(name, tag, 0)
        client.delete_backend(tag, force=True)


def test_streams_and_large_answers(client, http, compared, name):
    """Streams are compared whole, while users read them; an answer of 2 MB is not compared, and reaches its user
    (SC10)."""
    compared([], compare="exact", noise=0)
    assert len(http.get(f"/{name}", params={"label": "large"}).content) == 2 * 1024 * 1024
    assert http.get(f"/{name}", params={"label": "stream"}).text == "one old"
    wait_until(lambda: done(client.shadow_report(name, compared.tag)) == 2, what="both answers to be looked at")
    report = client.shadow_report(name, compared.tag)
    assert (report["uncompared"], report["by_kind"]) == ({"too_large": 1}, {"body": 1})
    (example,) = client.shadow_examples(name, compared.tag)
    assert (example["primary"]["body"], example["shadow"]["body"]) == ("one old", "one new")


async def echoing_app(scope, receive, send):
    """An ASGI app that answers with the size of the body; the one of the second backend is one off."""
    if scope["type"] != "http":
        return
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message.get("more_body", False)
    off = serve.get_current_backend_tag().endswith("2")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"%d" % (size + off)})


@pytest.mark.skipif(PROFILE == "gate", reason="make test-long has it: it starts two replicas")
def test_apps_are_compared(client, http, name):
    """Requests to an app with their bodies are compared like others (SC2, SC6)."""
    tags = [f"{name}1", f"{name}2"]
    for tag in tags:
        client.create_backend(tag, serve.asgi(echoing_app))
    client.create_endpoint(name, backend=tags[0], route=f"/{name}")
    try:
        client.shadow_traffic(name, tags[1], 1.0, compare=serve.compare.json(abs=0.5), noise=1)
        for body in (b"", b"small", b"x" * 100_000, iter([b"in", b"parts"])):
            http.post(f"/{name}/below", content=body)
        wait_until(lambda: done(client.shadow_report(name, tags[1])) == 4, what="all answers to be compared")
        report = client.shadow_report(name, tags[1])
        assert report["by_kind"] == {"value": 4}
        assert report["by_route"] == {f"POST /{name}": {"pairs": 4, "mismatched": 4}}
        wait_until(lambda: client.shadow_report(name, tags[1])["noise"]["pairs"] == 4, what="noise to be compared")
        assert client.shadow_report(name, tags[1])["noise"]["mismatched"] == 0
    finally:
        client.delete_endpoint(name)
        for tag in tags:
            client.delete_backend(tag, force=True)


def test_calls_from_python_are_compared(client, compared, name):
    """Answers to handles are compared as well (SC2)."""
    compared([], compare=serve.compare.json(ignore=["$.took_ms", "$.score"]), noise=0)
    handle = client.get_handle(name)
    assert [handle.remote(label="cat").result()["label"] for _ in range(3)] == ["cat"] * 3
    wait_until(lambda: client.shadow_report(name, compared.tag)["matched"] == 3, what="answers to be compared")
    assert list(client.shadow_report(name, compared.tag)["by_route"]) == ["handle"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"compare": "nearly"}, TypeError),
        ({"compare": lambda a, b: True}, TypeError),
        ({"compare": "json", "redact": ["a"]}, ValueError),
        ({"compare": "json", "noise": 2}, ValueError),
        ({"compare": "json", "keep": -1}, ValueError),
        ({"noise": 0.5}, ValueError),
        ({"compare": serve.compare.function("no_such_module:f")}, ValueError),
        ({"compare": serve.compare.function("json:f")}, ValueError),
    ],
)
def test_bad_options_are_refused(client, endpoint_of, options, error):
    """What is no comparison is refused with its value, and nothing has changed (SC1)."""
    name, tag = endpoint_of
    before = client.get_traffic(name)
    with pytest.raises(error):
        client.shadow_traffic(name, tag, 0.5, **options)
    assert client.get_traffic(name) == before


@pytest.fixture
def endpoint_of(shared, standing, name):
    shared(old)
    return name, standing(new)
