"""Two versions compared by what users got of them."""

from __future__ import annotations

from collections import Counter

from typer.testing import CliRunner

from pointsman.cli import traffic as commands
from pointsman.cli.main import app
from tests.conftest import wait_until

CALLS = 200


def good(request):
    return "good"


def bad(request):
    if int(request.query_params["n"]) % 4 == 0:
        raise RuntimeError("boom")
    return "bad"


def test_a_version_that_fails_is_found_out(client, http, standing, name, monkeypatch):
    """My canary fails one request in four: the comparison has each request that users made, by HTTP and by handle,
    without those that are pinned, and says that it fails more often; the command exits with 3."""
    main, new = standing(good), standing(bad)
    client.create_endpoint(name, backend=main, route=f"/{name}")
    client.set_traffic(name, {main: 0.5, new: 0.5})
    client.pin(name, "mine", new)
    handle, got = client.get_handle(name), Counter[str]()
    for number in range(0, CALLS, 2):
        answer = http.get(f"/{name}", params={"n": number})
        got[answer.headers["x-serve-backend"]] += 1
        http.get(f"/{name}", params={"n": 0}, headers={"x-serve-shard-key": "mine"})
    futures = [handle.remote(n=number) for number in range(1, CALLS, 2)]
    for future in futures:
        got[{"good": main, "bad": new}[future.result()]] += 1

    def compared():
        return client.compare_traffic(name, main, new, over_s=60)

    wait_until(lambda: compared()["baseline"]["requests"] == got[main], what="the last requests to be counted")
    found = compared()
    assert found["canary"]["requests"] == got[new]
    assert found["canary"]["errors"] > got[new] // 12
    assert found["harm"]
    assert f"{new} fails more often: " in found["verdict"]
    assert 0 < found["canary"]["latency_ms"]["p50"] < 1000

    monkeypatch.setattr(commands, "connect_to", lambda *_: client)
    result = CliRunner().invoke(app, ["traffic", "compare", name, main, new, "--over", "1m"])
    assert result.exit_code == 3, result.output
    client.delete_endpoint(name)
