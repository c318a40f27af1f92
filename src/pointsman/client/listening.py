"""What ``start`` was told of the ports for metrics and for the console: checked, and made into what serves there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pointsman.config import ConsoleOptions, HTTPOptions, parse_console_options
from pointsman.lock.tls import TLSSpec, load_context
from pointsman.lock.tokenfile import read_tokens
from pointsman.usercode.paths import absolute
from pointsman.wire.handover import ConsoleSettings, MetricsPort

LOOPBACK = "127.0.0.1"


class DefaultPort(int):
    """A default port, which differs from the same number given by the user: if it is in use, a free one is taken."""


DEFAULT_METRICS_PORT = DefaultPort(8080)
DEFAULT_CONSOLE_PORT = DefaultPort(8070)
"""Of the command line; ``start`` of Python has no console by default."""


def check_port(port: int | None, name: str) -> int | None:
    """Check a port; None for none.

    Args:
        name: of the argument.

    Raises:
        TypeError: not an int.
        ValueError: no port has this number.
    """
    if port is None:
        return None
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"{name} must be an int or None, not {port!r}")
    if not 0 <= port <= 65535:
        raise ValueError(f"{name} {port} is not between 0 and 65535")
    return port


def as_option(port: int | None) -> int | None:
    """A port as the command line's option has it: -1 for none, None for the default."""
    if port is None:
        return -1
    return None if isinstance(port, DefaultPort) else int(port)


def metrics_port(http: HTTPOptions, port: int | None) -> MetricsPort | None:
    """Metrics are served on the host of the HTTP server, or on loopback if there is none."""
    if port is None:
        return None
    host = http.host if http.serves and http.host is not None else LOOPBACK
    return MetricsPort(host, int(port), strict=not isinstance(port, DefaultPort))


def console_settings(
    port: int | None, options: ConsoleOptions | Mapping[str, Any] | None
) -> tuple[ConsoleSettings | None, dict[str, Any]]:
    """The console that was asked for, and what the command line says of it. Reads the files, which must be right.

    Args:
        port: 0 for any free one, None for no console.

    Returns:
        The settings, None for no console; and the values of the options of the command line, by argument of ``start``.

    Raises:
        TypeError, ValueError: a value is wrong, a file cannot be used, or options were given for no console.
    """
    port = check_port(port, "console_port")
    said: dict[str, Any] = {"console_port": as_option(port)}
    if port is None:
        if options is not None:
            raise ValueError("console_options were given, and there is no console without a console_port")
        return None, said
    parsed = parse_console_options(options)
    tls = None
    if parsed.cert is not None:
        tls = TLSSpec(absolute(parsed.cert, "cert"), absolute(parsed.key, "key") if parsed.key else "")
        load_context(tls)
    token_file = absolute(parsed.token_file, "token_file") if parsed.token_file else ""
    if token_file:
        read_tokens(token_file)
    settings = ConsoleSettings(
        host=parsed.host,
        port=int(port),
        strict=not isinstance(port, DefaultPort),
        read_only=parsed.read_only,
        token_file=token_file,
        tls=tls,
        plain=parsed.plain,
        hosts=tuple(parsed.allowed_hosts),
    )
    files = {"token_file": token_file, "cert": tls.cert if tls else "", "key": tls.key if tls else ""}
    values = {**parsed.model_dump(exclude_defaults=True), **{name: path for name, path in files.items() if path}}
    said["console_options"] = {name: value for name, value in values.items() if value not in (None, False)}
    return settings, said
