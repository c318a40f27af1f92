"""Fixtures that every kind of test may use."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.util
import itertools
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest
import typer.testing

import pointsman as serve
from pointsman.policy import balance
from tests.environments import Environments
from tests.properties import load_profile

load_profile()

# A new one reads all certificates of the system, 25 ms long, for each client and each call of httpx.get().
httpx._transports.default.create_ssl_context = functools.cache(httpx.create_ssl_context)
# The commands of an app are built once, and not by each test that runs one in this process.
vars(typer.testing)["_get_command"] = functools.cache(typer.main.get_command)

WAIT_S = 60.0
"""For conditions that come true at once as a rule, and late on a machine that is busy with other things."""

UNWATCHED = {"rollout_watch_s": 0}
"""A backend's config with which an update is over as soon as the new replicas serve, for tests of something else."""

T = TypeVar("T")

_names = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def private_runtime_folder() -> Iterator[Path]:
    """Instances of a test run live in a folder of their own, short enough for socket paths."""
    with tempfile.TemporaryDirectory(prefix="pm", dir="/tmp") as folder:
        before = os.environ.get("XDG_RUNTIME_DIR")
        os.environ["XDG_RUNTIME_DIR"] = folder
        yield Path(folder)
        os.environ.pop("XDG_RUNTIME_DIR")
        if before is not None:
            os.environ["XDG_RUNTIME_DIR"] = before


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What this user keeps between runs is neither used nor changed; the cache of downloads is."""
    folder = tmp_path_factory.mktemp("cache")
    folder.chmod(0o700)
    usual = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_CACHE_DIR", os.environ.get("UV_CACHE_DIR") or f"{usual}/uv")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Environments:
    """Virtual environments, each made once."""
    return Environments(tmp_path_factory.mktemp("environments"))


@pytest.fixture(scope="session", autouse=True)
def usual_ports_are_taken() -> Iterator[None]:
    """By this run, unless another program has them: a test that needs one of them would fail there."""
    with contextlib.ExitStack() as held:
        for port in (8000, 8080):
            with contextlib.suppress(OSError):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


@pytest.fixture(scope="session", autouse=True)
def signals_work() -> None:
    """A shell starts background jobs with SIGINT ignored, and nohup with SIGHUP, and their children inherit that: the
    tests that press Ctrl-C or close a terminal would wait for ever."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"n{next(_names)}"


def wait_until(condition: Callable[[], T], *, timeout_s: float = WAIT_S, what: str = "condition") -> T:
    """Wait for a condition that no event tells of, and return what it gave; fail when it does not come true.

    One that takes long to look at, such as a list of all processes, is looked at less often: else looking would take
    the processor from what is waited for.
    """
    began = time.monotonic()
    deadline = began + timeout_s
    while not (found := condition()):
        now = time.monotonic()
        if now > deadline:
            pytest.fail(f"{what} did not come true within {timeout_s:g} s")
        time.sleep(min(max(0.01, 3 * (now - began)), 0.25))
        began = time.monotonic()
    return found


def needs(*modules: str) -> pytest.MarkDecorator:
    """Skips tests whose programs import these, where one is not installed. Nothing is imported in this process, where
    each worker of a run would wait for it."""
    absent = [one for one in modules if importlib.util.find_spec(one) is None]
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}")


def family(pid: int | None = None) -> dict[int, psutil.Process]:
    """All living descendants of a process, by pid."""
    children = psutil.Process(pid).children(recursive=True)
    return {child.pid: child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE}


@contextlib.contextmanager
def leaves_no_process() -> Iterator[None]:
    """What is started inside has ended at the end. What a test before has left behind is not held against this one."""
    before = family()
    yield
    left = {pid: process for pid, process in family().items() if pid not in before}
    assert not left, f"processes were left behind: {left}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``--dist loadfile`` files run in an order of ours."""
    if config.getoption("dist") != "loadfile":
        return None
    from tests.scheduling import ByFile

    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files come first where several workers share the tests; alone, what is cheap comes as it is collected."""
    if hasattr(config, "workerinput"):
        from tests.scheduling import place

        items.sort(key=place)


def pytest_collection_finish() -> None:
    """A replica that lets user code go collects garbage, in this process in tests of loops. It need not look each time
    at the thousands of tests that wait for their turn, which takes half a second; before it does, it unfreezes what it
    had frozen, which here is nothing."""
    gc.collect()
    gc.freeze()
    gc.unfreeze = lambda: None


COMPILED = not balance.__file__.endswith(".py")
"""Whether hot modules are compiled in the package under test (decision 0057)."""

PURE_ONLY = pytest.mark.skipif(COMPILED, reason="it reaches into code that is compiled here; the sources pass it")


def pytest_report_header() -> str:
    return f"pointsman: {'compiled' if COMPILED else 'pure'}, in {Path(serve.__file__).parent}"


def pytest_configure(config: pytest.Config) -> None:
    wanted = config.getoption("form")
    if wanted and wanted != ("compiled" if COMPILED else "pure"):
        raise pytest.UsageError(f"--form {wanted}, but {pytest_report_header()}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--form", default="", choices=("", "compiled", "pure"), help="fail if it is another that is tested"
    )
    engines = "local,ray; without it, local, and ray for a part (see tests/conformance/conftest.py)"
    parser.addoption("--engine", default="", help=f"which engines the conformance suite runs on: {engines}")


ROOM: dict[str, Any] = {"num_cpus": 64, "num_gpus": 2, "memory": 1_000_000_000, "resources": {"disk": 2}}
"""What there is said to be: CPUs for as many replicas as tests like, since they are strict on Ray, and no hardware."""


def start_client(
    engine: str = "local",
    *,
    strict: bool = False,
    metrics_export_port: int | None = 0,
    console_port: int | None = None,
    **http_options: object,
) -> serve.Client:
    """An anonymous instance on free ports. A strict one has :data:`ROOM`, as all have on Ray; there the cluster has it,
    and the instances of this process share that."""
    return serve.start(
        engine=engine,
        **(ROOM if strict or engine == "ray" else {}),
        address="local" if engine == "ray" else None,  # another test may have a cluster on this machine
        http_options={"port": 0, **http_options},
        metrics_export_port=metrics_export_port,
        console_port=console_port,
    )


def empty(client: serve.Client) -> None:
    """Take everything down that a test has made, for the next test on the same instance."""
    for endpoint in client.list_endpoints():
        client.delete_endpoint(endpoint)
    for tag in client.list_backends():
        client.delete_backend(tag, force=True)


def http_for(client: serve.Client) -> httpx.Client:
    """An HTTP client for an instance."""
    address = client.http_address
    assert address is not None
    return httpx.Client(base_url=address, timeout=WAIT_S)
