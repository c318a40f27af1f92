"""The options of ``start``, for every command that starts an instance.

They are made of the table in :mod:`pointsman.flags`; a command that is decorated by :func:`takes_start_options`
has them all, and gets what was given in its parameter ``given``.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer

from pointsman.cli.lines import Lines
from pointsman.flags import HTTP_FLAGS, START_FLAGS, Flag, fields_of

_TYPES: dict[str, Any] = {
    "text": str | None,
    "json": str | None,
    "int": int | None,
    "number": float | None,
    "switch": bool,
    "off": bool,
    "texts": list[str],
    "amounts": list[str],
}


class Given(NamedTuple):
    """Options of ``start`` that were given.

    Attributes:
        http: fields of HTTPOptions.
        start: other arguments of ``start``.
    """

    http: dict[str, Any]
    start: dict[str, Any]


def takes_start_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of ``start``, in place of its parameter ``given``, a :class:`Given`."""
    hints = get_type_hints(command, include_extras=True)
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "given"]
    parameters = [p.replace(kind=p.KEYWORD_ONLY, annotation=hints[p.name]) for p in own]
    parameters += [_parameter(flag, "HTTP") for flag in HTTP_FLAGS]
    for flag in START_FLAGS:
        parameters.append(_parameter(flag, "Console" if flag.flag.startswith("--console") else "Instance"))
    names = {p.name for p in own}

    def wrapper(**values: Any) -> None:
        given = {name: value for name, value in values.items() if name not in names}
        read = _read(given)
        try:
            _check(read, values.get("name"))
        except ValueError as error:
            Lines(read.start.get("log_format", "text")).fail(str(error))
            raise typer.Exit(2) from None
        command(**{name: values[name] for name in names}, given=read)

    wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def _parameter(flag: Flag, panel: str) -> inspect.Parameter:
    spellings = [flag.flag, *([flag.also] if flag.also else [])]
    option: Any = typer.Option(
        *spellings,
        help=f"{flag.help} Default: {flag.default}." if flag.default else flag.help,
        metavar=flag.metavar or None,
        show_default=False,
        rich_help_panel=panel,
    )
    default: Any = [] if flag.kind in ("texts", "amounts") else False if flag.kind in ("switch", "off") else None
    return inspect.Parameter(
        flag.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[_TYPES[flag.kind], option]
    )


def _read(given: dict[str, Any]) -> Given:
    """What was given, as ``start`` takes it.

    Raises:
        typer.BadParameter: a text is no JSON, no ``NAME=AMOUNT``, or names nothing that can be imported.
    """
    http, start = fields_of(HTTP_FLAGS, given), fields_of(START_FLAGS, given)
    if "cors" in http:
        http["cors"] = parse_json(http["cors"], "--cors")
    if "middlewares" in http:
        http["middlewares"] = [_middleware(path) for path in http["middlewares"]]
    if "resources" in start:
        start["resources"] = dict(map(_amount, start["resources"]))
    for port in ("metrics_export_port", "console_port"):
        if start.get(port) == -1:
            start[port] = None
    return Given(http, start)


def _check(given: Given, name: str | None) -> None:
    """Refuse what no start could take, before anything is started.

    Raises:
        ValueError: a field of HTTPOptions or the port for metrics has a wrong value, or the instance's name is none.
    """
    from pointsman.config import parse_console_options, parse_http_options
    from pointsman.engine.folder import check_name

    parse_http_options(given.http)
    parse_console_options(given.start.get("console_options"))
    for name_of_port in ("metrics_export_port", "console_port"):
        port = given.start.get(name_of_port)
        if port is not None and not 0 <= port <= 65535:
            option = f"--{name_of_port.replace('_', '-')}"
            raise ValueError(f"{option} {port} is not between 0 and 65535, nor -1 for none")
    if name is not None:
        check_name(name)


def parse_json(text: str, option: str) -> Any:
    """The value of an option that is JSON.

    Raises:
        typer.BadParameter: it is none.
    """
    try:
        return json.loads(text)
    except ValueError:
        raise typer.BadParameter(f"{option} {text!r} is not JSON, such as 1, true, '\"text\"' or '[1, 2]'") from None


def parse_settings(texts: list[str], option: str) -> dict[str, Any]:
    """``FIELD=VALUE`` texts as a dict; a value is JSON, or else a text.

    Raises:
        typer.BadParameter: one has no ``=``, or a field comes twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{option} {text!r} is not FIELD=VALUE, such as num_replicas=2")
        if name in found:
            raise typer.BadParameter(f"{option} says {name!r} twice")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def parse_share(text: str) -> float:
    """A share such as 0.99 or 99%.

    Raises:
        typer.BadParameter: it is none.
    """
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number such as 0.99 or 99%") from None


_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_seconds(text: str, option: str) -> float:
    """A duration such as 90, 90s, 10m, 2h or 1d, in seconds.

    Raises:
        typer.BadParameter: it is none.
    """
    amount = text.strip().rstrip("smindh")
    unit = text.strip()[len(amount) :]
    try:
        return float(amount) * _UNITS[unit]
    except (ValueError, KeyError):
        raise typer.BadParameter(f"{option} {text!r} is not a duration such as 90s, 10m or 2h") from None


def _amount(text: str) -> tuple[str, float]:
    name, equals, amount = text.partition("=")
    try:
        if name and equals:
            return name, float(amount)
    except ValueError:
        pass  # refused below, as what has no "=" is
    raise typer.BadParameter(f"--resource {text!r} is not NAME=AMOUNT, such as slots=4")


def _middleware(path: str) -> Any:
    from starlette.middleware import Middleware

    from pointsman.usercode.packing import import_object
    from pointsman.usercode.paths import working_folder

    try:
        return Middleware(import_object(path, [working_folder()]))
    except ImportError as error:
        raise typer.BadParameter(f"--http-middleware {path!r} cannot be imported: {error}") from None
