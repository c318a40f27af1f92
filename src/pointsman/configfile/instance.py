"""Compares the ``instance:`` of a file with what runs: what differs needs another start (CF14)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from pointsman.client.listening import DEFAULT_CONSOLE_PORT, DEFAULT_METRICS_PORT
from pointsman.config import DeploymentMode, HTTPOptions
from pointsman.configfile.checking import Config
from pointsman.configfile.complaints import shown
from pointsman.configfile.problems import Problem
from pointsman.flags import HTTP_FLAGS, START_FLAGS, Flag, words_of
from pointsman.lock.hosts import check_hosts, check_proxies
from pointsman.lock.origins import cors_spec
from pointsman.lock.tls import tls_spec
from pointsman.wire.apply import Declared
from pointsman.wire.commands import Status
from pointsman.wire.handover import HTTPSettings, StartOptions

PROCESSES = next(flag for flag in HTTP_FLAGS if flag.field == "processes")
CONSOLE_PORT = next(flag for flag in START_FLAGS if flag.field == "console_port")
#: The way to a field, its value in the file, and that of the instance.
Difference = tuple[tuple[str, ...], Any, Any]


def differences(config: Config, declared: Declared, status: Status) -> list[Problem]:
    """What the file says of the instance and is not so."""
    options = config.instance_options()
    http = options.pop("http_options", {})
    found = []
    for keys, wanted, there in (*_of_http(http, declared), *_of_start(options, declared, status)):
        name = ".".join(map(str, keys[1:]))
        text = f"{name} is {shown(there)} in the instance that runs, and needs a restart to become {shown(wanted)}"
        found.append(config.document.problem(keys, text))
    return found


def _of_http(given: dict[str, Any], declared: Declared) -> Iterator[Difference]:
    if not given:
        return
    options, http = HTTPOptions(**given), declared.http
    if options.serves != (http is not None):
        where = "location" if "location" in given or "host" not in given else "host"
        yield ("instance", "http", where), _location(options), "NoServer" if http is None else "HeadOnly"
        return
    if http is None:
        return
    there = _running(http, declared)
    wanted = {name: getattr(options, name) for name in given}
    wanted.update(location=_location(options))
    for name, seen in (
        ("tls", tls_spec),
        ("cors", cors_spec),
        ("allowed_hosts", check_hosts),
        ("trusted_proxies", check_proxies),
    ):
        if wanted.get(name) is not None:
            wanted[name] = seen(wanted[name])
    for name in given:
        is_any = name == "port" and wanted[name] == 0
        if name in there and there[name] != wanted[name] and not is_any:
            secret = name == "tls"
            shown_as = ("...", "...") if secret else (given[name], _plain(there[name]))
            yield ("instance", "http", name), *shown_as


def _running(http: HTTPSettings, declared: Declared) -> dict[str, Any]:
    """The options of the HTTP servers that run, by name."""
    fields = {name: getattr(http, name) for name in http.__struct_fields__ if name in HTTPOptions.model_fields}
    fields.pop("middlewares")
    lock = http.lock
    started = declared.start_options
    return {
        **fields,
        "tls": lock.tls,
        "cors": lock.cors,
        "allowed_hosts": lock.allowed_hosts,
        "trusted_proxies": lock.trusted_proxies,
        "location": "EveryNode" if started.every_node else "HeadOnly",
        "processes": int(next(iter(_said(PROCESSES, started.locks)), 1)),
        "insecure": "--insecure" in started.locks,
    }


def _of_start(given: dict[str, Any], declared: Declared, status: Status) -> Iterator[Difference]:
    started = declared.start_options
    metrics = DEFAULT_METRICS_PORT if started.metrics_port is None else started.metrics_port
    there: dict[str, Any] = {
        "name": status.name,
        "engine": started.engine,
        "state_dir": status.state_dir or None,
        "metrics_export_port": None if metrics == -1 else metrics,
        "console_port": _console_port(started),
        "api_keys": (declared.http.lock.key_file or None) if declared.http is not None else None,
    }
    for name, value in given.items():
        is_any = name in ("metrics_export_port", "console_port") and value == 0 and there[name] is not None
        if name in there and there[name] != value and not is_any:
            yield ("instance", *(("console", "port") if name == "console_port" else (name,))), value, there[name]
    page = given.get("console_options", {})
    given = {**given, **{f"console_options.{name}": value for name, value in page.items()}}
    for flag in START_FLAGS:
        if flag.field in given and flag.field not in there:
            value = given[flag.field]
            field, _, key = flag.field.partition(".")
            said = None if _is_default(flag, value) else value
            wanted = words_of([flag], {field: {key: said} if key else said})
            if _said(flag, wanted) != _said(flag, started.others):
                keys = ("console", key) if key else (flag.field,)
                yield ("instance", *keys), value, _told(flag, started.others)


def _console_port(started: StartOptions) -> int | None:
    """The port of the console that was asked for; None for none."""
    said = _said(CONSOLE_PORT, started.others)
    port = int(said[0]) if said else DEFAULT_CONSOLE_PORT
    return None if port == -1 else port


def _is_default(flag: Flag, value: Any) -> bool:
    """Whether the instance would keep no words for a value."""
    return bool(value == (flag.kind == "off")) if flag.kind in ("switch", "off") else str(value) == flag.default


def _said(flag: Flag, words: tuple[str, ...]) -> list[str]:
    """What words of the command line say of an option."""
    if flag.kind in ("switch", "off"):
        return [flag.flag] if flag.flag in words else []
    return sorted(after for word, after in pairwise(words) if word == flag.flag)


def _told(flag: Flag, words: tuple[str, ...]) -> Any:
    """The same, for people."""
    if flag.kind in ("switch", "off"):
        return (flag.flag in words) == (flag.kind == "switch")
    return ", ".join(_said(flag, words)) or flag.default or None


def _location(options: HTTPOptions) -> str:
    return (options.location or DeploymentMode.NoServer).value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
