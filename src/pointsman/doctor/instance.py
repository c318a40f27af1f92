"""Gathers the facts of an instance: what its controller says, and whether its addresses answer."""

from __future__ import annotations

import contextlib
import http.client
import os
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pointsman
from pointsman.client import Client
from pointsman.doctor.condition import LOCKED, Condition, Store
from pointsman.doctor.machine import free_bytes
from pointsman.engine.folder import file_system_of
from pointsman.engine.local.folder import InstanceFolder
from pointsman.exceptions import ServeException

PATIENCE_S = 10.0
UNKNOWN_HOST, MOST_ANSWER = 400, 4096
SILENT = f"none within {PATIENCE_S:.0f} s"


class Said(NamedTuple):
    """What a controller says, as plain values, and what must not be shown.

    Attributes:
        status, stats, history: as the client returns them; ``stats`` is empty without metrics.
        failures: the last ones of each backend.
        secrets: values of variables that users gave to their backends.
        state_dir: "" if the state ends with the instance.
    """

    status: dict[str, Any]
    stats: dict[str, Any]
    history: list[dict[str, Any]]
    failures: dict[str, list[dict[str, Any]]]
    secrets: tuple[str, ...]
    state_dir: str


class Looked(NamedTuple):
    """An instance as it was found; ``said`` is None if its controller gave no answer."""

    condition: Condition
    said: Said | None


class Found(NamedTuple):
    """A file: its bytes, and when it changed, in seconds since 1970."""

    path: str
    size: int
    changed: float


def files_in(folder: Path) -> list[Found]:
    """The files of a folder. Those that go meanwhile are left out, as logs of replicas that end."""
    found = []
    with contextlib.suppress(OSError):
        for one in os.scandir(folder):
            with contextlib.suppress(OSError):
                if one.is_file():
                    found.append(Found(one.path, one.stat().st_size, one.stat().st_mtime))
    return found


def look_at_instance(name: str, connect: Callable[[], Client], folder: InstanceFolder | None) -> Looked:
    """The facts of a live instance.

    Args:
        connect: makes a client for it.
        folder: on this machine; None for one on a Ray cluster.
    """
    said, fault = _asked(connect)
    status = said.status if said is not None else {}
    http_address, console, release, logs = _addresses(status, folder)
    http_fault = _answer(f"{http_address}/-/healthz") if http_address else ""
    condition = Condition(
        name=name,
        own_release=pointsman.__version__,
        release=release,
        fault=fault,
        status=status,
        http=http_address,
        http_fault=http_fault,
        ready=bool(http_address) and not http_fault and not _answer(f"{http_address}/-/readyz"),
        console=console,
        console_fault=_answer(f"{console}/healthz") if console else "",
        state=_store(said.state_dir) if said is not None and said.state_dir else None,
        logs=str(logs or ""),
        log_bytes=sum(file.size for file in files_in(logs)) if logs else 0,
    )
    return Looked(condition, said)


def _addresses(status: dict[str, Any], folder: InstanceFolder | None) -> tuple[str, str, str, Path | None]:
    """HTTP, console, release and logs, as far as they are known without the controller."""
    from pointsman.engine.base import url

    http_address = ((status.get("http") or {}).get("address") or "") if status else ""
    console = (status.get("console") or "") if status else ""
    if folder is None:
        return http_address, console, str(status.get("release") or ""), None
    try:
        about = folder.about()
        logs = folder.logs()
    except (OSError, ServeException):
        return http_address, console, "", None  # it has just ended
    http_address = http_address or url(about.http_host, about.http_port, secure=about.secure) or ""
    return http_address, console or about.console, about.release, logs if logs.is_dir() else None


def _asked(connect: Callable[[], Client]) -> tuple[Said | None, str]:
    """What the controller says, or why it says nothing. It is asked from a thread: one that hangs is left alone."""
    answers: list[Said] = []
    faults: list[str] = []

    def ask() -> None:
        try:
            answers.append(_ask(connect()))
        except (ServeException, OSError, ValueError) as error:
            faults.append(str(error).strip().partition("\n")[0] or type(error).__name__)
        except (KeyError, TypeError, AttributeError) as error:  # another release, which answers otherwise
            faults.append(f"its answer is not understood: {type(error).__name__}: {error}")

    thread = threading.Thread(target=ask, name="pointsman-doctor", daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return (answers[0], "") if answers else (None, faults[0] if faults else SILENT)


def _ask(client: Client) -> Said:
    status = client.status()
    try:
        stats = client.stats()
    except ServeException:
        stats = {}  # it records no metrics
    specs = client._backends()
    secrets = {value for spec in specs.values() for value in dict(spec.resources.env_vars or {}).values()}
    failures = {tag: client.failures(tag) for tag in status["backends"]}
    return Said(status, stats, client.history(), failures, tuple(secrets), client._status().state_dir)


def _store(path: str) -> Store:
    return Store(path, file_system_of(Path(path)), free_bytes(path))


def _answer(address: str) -> str:
    """What came from a URL instead of 200; "" for that. Certificates are not checked: only liveness is asked for."""
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port
    try:
        if parts.scheme == "https":
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=PATIENCE_S, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
        try:
            connection.request("GET", parts.path)
            answer = connection.getresponse()
            if answer.status == UNKNOWN_HOST and b'"rejected"' in answer.read(MOST_ANSWER):
                return LOCKED  # it has allowed_hosts, and none of them was asked for
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        return LOCKED if "CERTIFICATE_REQUIRED" in str(error) else str(error) or type(error).__name__
    return "" if answer.status == http.client.OK else f"status {answer.status}"
