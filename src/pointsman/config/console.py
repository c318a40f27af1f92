"""Options of the console, as users write them, with their validation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pydantic import StrictBool, field_validator

from pointsman.config.options import ConfigError, Options, string_key
from pointsman.lock.hosts import check_hosts, is_loopback


class ConsoleOptions(Options):
    """Options of an instance's console: the page to look and steer by, and its API.

    Args:
        values: the fields below, by name.

    Attributes:
        host: address to listen on. One that other machines reach needs ``token_file``, and ``cert`` or ``plain``.
        token_file: path of a file of tokens, a line ``NAME ROLE TOKEN`` each, with mode 0600. It is read again when it
            has changed.
        cert: for HTTPS, path of the certificate in PEM form. A renewed one is used within 5 s.
        key: path of its private key, without a password; None where that is in the same file.
        plain: plain HTTP is meant for other machines, since something in front has TLS.
        allowed_hosts: further names of this server in the ``Host`` and ``Origin`` headers, without port, such as that
            of a proxy in front; its own address, and the names of the loopback, are known.
        read_only: it refuses every change, whatever a token is for.

    Raises:
        ValueError: an unknown field or a bad value.
    """

    host: str = "127.0.0.1"
    token_file: str | None = None
    cert: str | None = None
    key: str | None = None
    plain: StrictBool = False
    allowed_hosts: list[str] = []
    read_only: StrictBool = False

    @field_validator("token_file", "cert", "key", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    @field_validator("allowed_hosts")
    @classmethod
    def _names(cls, value: list[str]) -> list[str]:
        if any("*" in name for name in value):
            raise ValueError("each name is said in full: any other page could send commands in its user's name")
        return list(check_hosts(value)) if value else []

    @field_validator("host", "token_file", "cert", "key")
    @classmethod
    def _not_empty(cls, value: str | None) -> str | None:
        if value == "":
            raise ValueError("it is empty")
        return value


def parse_console_options(options: ConsoleOptions | Mapping[str, Any] | None) -> ConsoleOptions:
    """Options of the console from what the user gave.

    Raises:
        TypeError: neither a dict nor ConsoleOptions.
        ValueError: an unknown key or a bad value, or options that do not go together.
    """
    if options is None:
        return ConsoleOptions()
    if isinstance(options, Mapping):
        options = ConsoleOptions(**{string_key(key): value for key, value in options.items()})
    if not isinstance(options, ConsoleOptions):
        raise TypeError(f"console_options must be a dict or ConsoleOptions, not {options!r}")
    _check_together(options)
    return options


def _check_together(options: ConsoleOptions) -> None:
    if options.key and not options.cert:
        raise ConfigError(f"key of ConsoleOptions is {options.key!r}, and the certificate, cert, is missing")
    if options.cert and options.plain:
        raise ConfigError(f"cert of ConsoleOptions is {options.cert!r}, and plain says that there is no TLS; drop one")
    if is_loopback(options.host):
        return
    missing = [] if options.token_file else ["token_file"]
    if not options.cert and not options.plain:
        missing.append("cert and key (or plain, where TLS is in front)")
    if missing:
        raise ConfigError(
            f"host of ConsoleOptions is {options.host!r}, which other machines reach, and needs {' and '.join(missing)}"
        )
