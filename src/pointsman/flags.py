"""The options of ``start`` as options of the command line, in one table.

The command line makes its options of it, and an instance that stops says by it how it is started again. A test holds it
against the fields of :class:`HTTPOptions` and the arguments of :func:`start`. It imports neither, so that ``--help``
answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

Kind = Literal["text", "int", "number", "switch", "off", "texts", "json", "amounts"]


class Flag(NamedTuple):
    """An option of the command line.

    Attributes:
        flag: as it is written, such as ``--http-port``.
        field: the field of HTTPOptions or argument of ``start``; ``tls.cert`` is a key in the dict of a field.
        kind: ``switch`` is True if given, ``off`` False if given; ``texts`` and ``amounts`` may be given several times.
        help: what it does, in a few words.
        metavar: what stands for its value.
        default: of the field, as the help shows it.
        also: another spelling.
    """

    flag: str
    field: str
    kind: Kind
    help: str
    metavar: str = ""
    default: str = ""
    also: str = ""

    @property
    def name(self) -> str:
        """Its name as a parameter of a command."""
        return self.flag.removeprefix("--").replace("-", "_")


HTTP_FLAGS = (
    Flag("--http-host", "host", "text", "Address to listen on.", "HOST", "127.0.0.1"),
    Flag("--http-port", "port", "int", "0 takes any free port.", "PORT", "8000", also="--port"),
    Flag("--http-location", "location", "text", "Where servers run.", "HeadOnly|EveryNode|NoServer", "HeadOnly"),
    Flag("--http-processes", "processes", "int", "Server processes that share the port.", "N", "1"),
    Flag("--http-middleware", "middlewares", "texts", "A Starlette middleware class; may be repeated.", "MODULE:NAME"),
    Flag("--request-timeout-s", "request_timeout_s", "number", "To an answer's first byte.", "SECONDS", "300"),
    Flag("--max-body-bytes", "max_body_bytes", "int", "Largest body of a request.", "BYTES", "67108864"),
    Flag("--keep-alive-s", "keep_alive_s", "number", "Keep a connection without requests.", "SECONDS", "60"),
    Flag("--head-timeout-s", "head_timeout_s", "number", "In which a request's head must come.", "SECONDS", "10"),
    Flag("--body-idle-timeout-s", "body_idle_timeout_s", "number", "Longest pause in a body.", "SECONDS", "30"),
    Flag("--body-min-bytes-per-s", "body_min_bytes_per_s", "int", "Slowest body.", "BYTES", "1024"),
    Flag("--ws-max-message-bytes", "ws_max_message_bytes", "int", "Largest WebSocket message.", "BYTES", "16777216"),
    Flag("--debug", "debug", "switch", "Put tracebacks of user code into answers."),
    Flag("--no-docs", "docs", "off", "Serve no /-/docs and /-/openapi.json."),
    Flag("--no-expose-headers", "expose_headers", "off", "Do not say in answers which backend gave them."),
    Flag("--access-log", "access_log", "number", "Share of the requests that are logged, 0 to 1.", "SHARE", "0"),
    Flag("--slow-request-s", "slow_request_s", "number", "Log requests that take so long.", "SECONDS"),
    Flag("--tls-cert", "tls.cert", "text", "For HTTPS: the certificate, PEM.", "FILE"),
    Flag("--tls-key", "tls.key", "text", "Its private key, PEM.", "FILE"),
    Flag("--tls-client-ca", "tls.client_ca", "text", "Clients must show its certificates.", "FILE"),
    Flag("--insecure", "insecure", "switch", "Do not warn that others can use it without a key."),
    Flag("--cors", "cors", "json", "Web pages that may use it: arguments of Starlette's CORSMiddleware.", "JSON"),
    Flag("--allowed-host", "allowed_hosts", "texts", "A name of this server; may be repeated.", "NAME"),
    Flag("--trusted-proxy", "trusted_proxies", "texts", "Whose X-Forwarded-* counts; may be repeated.", "ADDRESS"),
    Flag("--drain-delay", "drain_delay_s", "number", "Accept on so long, not ready, at the end.", "SECONDS", "0"),
)

START_FLAGS = (
    Flag("--api-keys", "api_keys", "text", "Keys of clients, JSON, mode 0600.", "FILE"),
    Flag("--metrics-export-port", "metrics_export_port", "int", "0 takes any free port, -1 none.", "PORT", "8080"),
    Flag("--console-port", "console_port", "int", "Of the page and its API; 0 takes any, -1 none.", "PORT", "8070"),
    Flag("--console-host", "console_options.host", "text", "Address of the page.", "HOST", "127.0.0.1"),
    Flag("--console-token-file", "console_options.token_file", "text", "Lines NAME ROLE TOKEN, mode 0600.", "FILE"),
    Flag("--console-cert", "console_options.cert", "text", "For HTTPS: its certificate, PEM.", "FILE"),
    Flag("--console-key", "console_options.key", "text", "Its private key, PEM.", "FILE"),
    Flag("--console-allowed-host", "console_options.allowed_hosts", "texts", "A name of it; may be repeated.", "NAME"),
    Flag("--console-plain", "console_options.plain", "switch", "HTTP for others: TLS is in front."),
    Flag("--console-read-only", "console_options.read_only", "switch", "The page changes nothing."),
    Flag("--state-dir", "state_dir", "text", "Keep state here, over restarts.", "FOLDER"),
    Flag("--log-format", "log_format", "text", "json: each line of the output is an object.", "text|json", "text"),
    Flag("--engine", "engine", "text", "Where it runs.", "local|ray", "local"),
    Flag("--num-cpus", "num_cpus", "number", "CPUs that replicas may use in all.", "N"),
    Flag("--num-gpus", "num_gpus", "int", "GPUs that replicas may use.", "N"),
    Flag("--memory", "memory", "number", "Memory that replicas may request in all.", "BYTES"),
    Flag("--resource", "resources", "amounts", "A resource of your own; may be repeated.", "NAME=AMOUNT"),
    Flag("--wait-for-resources-s", "wait_for_resources_s", "number", "Wait for nodes to join (Ray).", "SECONDS"),
    Flag("--allow-insecure-cluster", "allow_insecure_cluster", "switch", "Join a Ray cluster without tokens."),
    Flag("--spare-replicas", "spare_replicas", "int", "Processes that wait for a backend.", "N", "0"),
    Flag("--no-client-in-replicas", "client_in_replicas", "off", "User code may not use the instance."),
)

#: What ``pointsman stop`` says from other sources, or cannot say: middlewares are objects.
_SAID_ELSEWHERE = {"host", "port", "location", "middlewares", "metrics_export_port", "state_dir", "engine", "api_keys"}


def fields_of(flags: Iterable[Flag], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, or arguments, that a command line sets.

    Args:
        given: by the names of the flags; None, False and empty for what was not given.
    """
    found: dict[str, Any] = {}
    for flag in flags:
        value = given.get(flag.name)
        if value is None or value is False or value == []:
            continue
        field, _, key = flag.field.partition(".")
        if key:
            found.setdefault(field, {})[key] = value
        else:
            found[field] = False if flag.kind == "off" else value
    return found


def words_of(flags: Iterable[Flag], values: Mapping[str, Any]) -> tuple[str, ...]:
    """The words of the command line that set fields to values; those that other parts of it say are left out.

    Args:
        values: by field; only those that differ from their default.
    """
    words: list[str] = []
    for flag in flags:
        field, _, key = flag.field.partition(".")
        value = values.get(field)
        if field in _SAID_ELSEWHERE or value is None:
            continue
        if key:
            value = value.get(key)
        if value is None:
            continue
        if flag.kind in ("switch", "off"):
            words.append(flag.flag)
        elif flag.kind == "texts":
            words += [word for text in value for word in (flag.flag, str(text))]
        elif flag.kind == "amounts":
            words += [word for name, amount in value.items() for word in (flag.flag, f"{name}={amount:g}")]
        else:
            words += [flag.flag, json.dumps(value) if flag.kind == "json" else _shown(value)]
    return tuple(words)


def _shown(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
