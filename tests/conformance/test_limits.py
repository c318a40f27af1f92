"""What is too large is an error of its maker, at once; what is large and allowed arrives."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from pointsman.exceptions import BackendStartError, RemoteError

MB = 1_000_000
TEXT_LIMIT = 64 * 1024


class Careless:
    """Raises what was asked for."""

    def __call__(self, request):
        size = int(request.query_params.get("raise", 0))
        if size:
            raise ValueError(f"cannot parse {'x' * size!r}")
        carried = int(request.query_params.get("carry", 0))
        if carried:
            error = ValueError("see data")
            error.data = b"d" * carried
            raise error
        return "fine"

    def give(self, request):
        return b"b" * int(request.query_params["size"])


class Configured:
    def __init__(self, *_):
        self.config = None

    def reconfigure(self, config):
        if config == "bad":
            raise ValueError("bad" * 9 * MB)
        self.config = config

    def __call__(self, request):
        return len(self.config or "")


def test_a_huge_exception_hurts_nobody_else(served, http):
    """One of many POSTs raises an error with 9 MB of text: it is a 500, and the others are answered (F39)."""
    route = served(Careless)
    with ThreadPoolExecutor(8) as pool:
        bad = pool.submit(http.post, route, params={"raise": 9 * MB})
        others = [pool.submit(http.post, route) for _ in range(30)]
        assert bad.result().status_code == 500
        assert len(bad.result().content) < TEXT_LIMIT
        assert {other.result().status_code for other in others} == {200}


def test_a_huge_exception_arrives_at_a_handle(served, client, name):
    """A handle's caller gets the exception itself; one that carries more than 64 MiB as a RemoteError (HA4)."""
    served(Careless)
    handle = client.get_handle(name)
    with pytest.raises(ValueError, match="cannot parse 'xxx") as caught:
        handle.remote(**{"raise": 9 * MB}).result()
    assert len(str(caught.value)) == 9 * MB + len("cannot parse ''")
    assert len(str(caught.value.__cause__)) <= TEXT_LIMIT + 10
    with pytest.raises(RemoteError, match="ValueError: see data"):
        handle.remote(carry=70 * MB).result()
    assert handle.remote().result() == "fine"


@pytest.mark.parametrize("option", ["http_headers", "method_name", "http_method"])
def test_a_handle_call_with_17_mb_beside_its_arguments(served, client, name, option):
    """Headers and names of 17 MB are an error of that call, with size and limit; large arguments and answers arrive."""
    served(Careless)
    handle = client.get_handle(name)
    large = "v" * 17 * MB
    with pytest.raises(ValueError, match=r"cannot be sent: .* \d+ bytes, over the limit of 16777216 bytes"):
        handle.options(**{option: {"x-large": large} if option == "http_headers" else large}).remote().result()
    assert len(handle.options(method_name="give").remote(size=20 * MB).result()) == 20 * MB
    assert handle.remote(b"b" * 20 * MB).result() == "fine"


def test_a_constructor_that_raises_9_mb(client, name):
    """``create_backend`` raises an error that can be read, and what the constructor raised is its cause (CB10)."""

    class Broken:
        def __init__(self):
            raise RuntimeError("y" * 9 * MB)

        def __call__(self, request):
            return None

    with pytest.raises(BackendStartError, match="bytes are left out") as caught:
        client.create_backend(name, Broken)
    assert len(str(caught.value)) <= TEXT_LIMIT
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert name not in client.status()["backends"]


def test_a_user_config_of_17_mb(served, client, name):
    """It reaches the replicas when the backend is made and when it changes, and can be read back (RC1, RC2)."""
    served(Configured, config={"user_config": "u" * 17 * MB, "rollout_watch_s": 0.1})
    handle = client.get_handle(name)
    assert handle.remote().result() == 17 * MB
    client.update_backend_config(name, {"user_config": "u" * 18 * MB})
    assert handle.remote().result() == 18 * MB
    assert len(client.get_backend_config(name).user_config) == 18 * MB
    client.deploy(name, Configured)
    assert handle.remote().result() == 18 * MB
    with pytest.raises(BackendStartError, match="bytes are left out"):
        client.update_backend_config(name, {"user_config": "bad"})
    assert handle.remote().result() == 18 * MB


def test_a_user_config_over_64_mib(served, client, name):
    """It is refused at once, with size and limit, for whichever operation; nothing has changed (BC1)."""
    served(Configured, config={"user_config": "u"})
    too_large = {"user_config": "u" * 70 * MB}
    for refused in (
        lambda: client.create_backend(f"{name}x", Configured, config=too_large),
        lambda: client.update_backend_config(name, too_large),
        lambda: client.deploy(name, Configured, config=too_large),
    ):
        with pytest.raises(ValueError, match=r"user_config takes 7000\d+ bytes, over the limit of 67108864 bytes"):
            refused()
    assert client.get_backend_config(name).user_config == "u"
    assert f"{name}x" not in client.list_backends()


def test_init_args_of_many_megabytes(served, client, name):
    """17 MB arrive; more than 64 MiB are refused at once, with size and limit."""
    served(Configured, b"a" * 17 * MB)
    with pytest.raises(ValueError, match=r"init args take 7000\d+ bytes, over the limit of 67108864 bytes"):
        client.create_backend(f"{name}x", Configured, b"a" * 70 * MB)


def test_many_large_configurations_can_be_listed(client, name):
    """Four backends with 5 MB of ``user_config`` each: they are listed, and the status is there as ever."""
    tags = [f"{name}-{index}" for index in range(4)]
    try:
        for tag in tags:
            client.create_backend(tag, Configured, config={"user_config": "u" * 5 * MB})
        listed = client.list_backends()
        assert [len(listed[tag].user_config) for tag in tags] == [5 * MB] * 4
        assert {client.status()["backends"][tag]["state"] for tag in tags} == {"RUNNING"}
    finally:
        for tag in tags:
            client.delete_backend(tag, force=True)
