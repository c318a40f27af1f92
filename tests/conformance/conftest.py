"""One instance for the whole suite, gone when it ends: tests use names of their own.

The suite is written against the public API only, so that it can be run on every engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

import pointsman as serve
from tests.conformance.traffic import Backends
from tests.conftest import http_for, leaves_no_process, start_client

ALWAYS_ON_RAY = (
    "test_apps",
    "test_autoscaling",
    "test_backends",
    "test_batches",
    "test_config_files",
    "test_consoles",
    "test_endpoints",
    "test_environments",
    "test_handles",
    "test_multiplexed",
    "test_replica_resources",
    "test_typed",
)
"""Modules that run on both engines when none is named, but for tests that are marked ``same_on_ray``: in those the
engine has no part but to start the replicas. Each replica costs a Ray worker, half a second of CPU and more, so that
the whole suite there takes many minutes: `make conformance-ray` runs it."""


_standing = itertools.count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test here can run on every engine."""
    if "engine" in metafunc.fixturenames:
        named = metafunc.config.getoption("--engine")
        both = metafunc.module.__name__.rpartition(".")[2] in ALWAYS_ON_RAY
        both = both and metafunc.definition.get_closest_marker("same_on_ray") is None
        engines = named.split(",") if named else ["local", *(["ray"] if both else [])]
        metafunc.parametrize("engine", engines, scope="package", indirect=True)


@pytest.fixture(scope="package")
def engine(request: pytest.FixtureRequest) -> str:
    """The engine that the tests run on."""
    return str(request.param)


@pytest.fixture(scope="package")
def client(engine: str) -> Iterator[serve.Client]:
    with leaves_no_process():
        client = start_client(engine, console_port=0)
        yield client
        client.shutdown()


@pytest.fixture(scope="package")
def http(client: serve.Client) -> Iterator[httpx.Client]:
    with http_for(client) as http:
        yield http


@pytest.fixture
def served(client: serve.Client, name: str) -> Iterator[Callable[..., str]]:
    """Serves code under a route of its own and returns the route; takes everything down afterwards."""

    def serve_it(code: Any, *init_args: Any, methods: tuple[str, ...] = ("GET", "POST"), **backend: Any) -> str:
        client.create_backend(name, code, *init_args, **backend)
        client.create_endpoint(name, backend=name, route=f"/{name}", methods=list(methods))
        return f"/{name}"

    yield serve_it
    client.delete_endpoint(name)
    client.delete_backend(name, force=True)


@pytest.fixture(scope="module")
def standing(client: serve.Client) -> Iterator[Callable[[Any], str]]:
    """Gives the tag of a backend of this code, which all tests of a module use: it keeps nothing of a call."""
    tags: dict[Any, str] = {}

    def stand(code: Any, **config: Any) -> str:
        key = (code, *sorted(config.items()))
        if key not in tags:
            tags[key] = f"standing{next(_standing)}"
            client.create_backend(tags[key], code, config=config)
        return tags[key]

    yield stand
    for tag in tags.values():
        client.delete_backend(tag, force=True)


@pytest.fixture
def shared(client: serve.Client, standing: Callable[..., str], name: str) -> Iterator[Callable[..., str]]:
    """Like ``served``, but what answers is a backend that the module's tests share."""

    def serve_it(code: Any, *, methods: tuple[str, ...] = ("GET", "POST"), **config: Any) -> str:
        client.create_endpoint(name, backend=standing(code, **config), route=f"/{name}", methods=list(methods))
        return f"/{name}"

    yield serve_it
    client.delete_endpoint(name)


@pytest.fixture(scope="module")
def backends(client: serve.Client, request: pytest.FixtureRequest) -> Iterator[Backends]:
    """Five backends that note their calls, for all tests of a module."""
    backends = Backends(client, request.module.__name__.rpartition("_")[2])
    yield backends
    backends.remove()


@pytest.fixture
def endpoint(client: serve.Client, backends: Backends, name: str) -> Iterator[str]:
    """An endpoint of the first of the module's backends, with a route of the same name."""
    client.create_endpoint(name, backend=backends.tags[0], route=f"/{name}", methods=["GET", "POST"])
    yield name
    client.delete_endpoint(name)
