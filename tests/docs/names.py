"""Names that the pages of migration give as ours are looked up in the package."""

from __future__ import annotations

import inspect
import pkgutil
import re
from typing import Any

from typer.main import get_command

import pointsman as serve
from pointsman.cli.main import app
from pointsman.config import AutoscalingConfig, BackendConfig, HTTPOptions
from pointsman.handle import CallOptions, ServeHandle
from pointsman.usercode.packing import CLOSED_METHODS

CALL = re.compile(r"(?<![\w.])(serve|client|handle)\.(\w+)")
MODULES = re.compile(r"\bpointsman(?:\.\w+)+")
KEYWORD = re.compile(r"\b(\w+)=")

HEADERS = {"X-SERVE-SHARD-KEY", "X-SERVE-CALL-METHOD"}
VARIABLES = {"OMP_NUM_THREADS", "OTEL_EXPORTER_OTLP_ENDPOINT"}
"""Of the environment."""


def known_names() -> set[str]:
    """What a name alone may mean: a field, an option, a parameter, a method that we call."""
    models = (BackendConfig, HTTPOptions, AutoscalingConfig)
    names = {name for model in models for name in model.model_fields} | {*CallOptions._fields} | HEADERS | VARIABLES
    names |= {name.removeprefix("experimental_") for name in names} | CLOSED_METHODS | {"__call__", "timeout"}
    functions = (serve.start, serve.Client.deploy, serve.Client.create_endpoint, serve.Client.shadow_traffic)
    return names.union(*(inspect.signature(function).parameters for function in functions))


def missing(code: str) -> list[str]:
    """Of a piece of code in a table, the names that do not exist."""
    if code.startswith("pointsman "):
        return [] if code.split()[1] in get_command(app).commands else [code]  # type: ignore[attr-defined]
    roots: dict[str, Any] = {"serve": serve, "client": serve.Client, "handle": ServeHandle}
    paths = CALL.findall(code)
    absent = [f"{root}.{path}" for root, path in paths if root in roots and not hasattr(roots[root], path)]
    absent += [path for path in MODULES.findall(code) if not is_importable(path)]
    alone = [] if paths or MODULES.search(code) else [code.removeprefix("@").partition("=")[0]]
    return absent + [name for name in alone + KEYWORD.findall(code) if name not in known_names()]


def is_importable(path: str) -> bool:
    """Whether the name of a module, or of what is in one, can be imported."""
    try:
        pkgutil.resolve_name(path)
    except (ImportError, AttributeError):
        return False
    return True


def fenced(page: str, kind: str) -> list[str]:
    """The texts of a page's blocks of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def rows_of(page: str, other: str) -> list[tuple[str, str]]:
    """Of each row of a page's tables of terms: what ``other``, a pattern, calls it, and what we do."""
    table = re.compile(rf"^\| {other} \| here \| \|\n\|[ \-|]+\|\n((?:\|.*\n)+)", re.MULTILINE)
    rows = [row for found in table.findall(page) for row in found.splitlines()]
    return [(left, here) for left, here, *_ in (re.split(r"(?<!\\) \| ", row.strip("| ")) for row in rows)]


def absent(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The names in backquotes on the right that do not exist, each with what is on its left."""
    codes = [(left, code) for left, here in rows for code in re.findall(r"`([^`]+)`", here)]
    return [(left, name) for left, code in codes for name in missing(code)]
