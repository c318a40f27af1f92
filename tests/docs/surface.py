"""The public interface as its source has it: each name that users may write, with its docstring."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import griffe

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"

#: Modules whose names users import. Of one without ``__all__`` these are the public names that it defines.
MODULES = ("", "backends", "comparing", "config", "exceptions", "handle", "metrics", "stats", "testing", "utils")
#: ``import pointsman`` calls it so.
SHOWN_AS = {"comparing": "compare"}
#: Names of these modules that no user writes: parts of other public names, or of Pointsman itself.
INSIDE = {
    "backends.TriedBackend",
    "config.config_changes",
    "config.config_from_spec",
    "config.config_spec",
    "config.pack_middlewares",
    "config.parse_console_options",
    "config.parse_http_options",
    "handle.H",
}
#: Members of public classes that only Pointsman calls.
INSIDE_MEMBERS = {
    "ApiKey.spec",
    "AutoscalingConfig.model_config",
    "AutoscalingConfig.of",
    "AutoscalingConfig.place_of",
    "AutoscalingConfig.spec",
    "BackendConfig.model_config",
    "BackendConfig.place_of",
    "HTTPOptions.model_config",
    "HTTPOptions.place_of",
    "HTTPOptions.serves",
    "ConsoleOptions.model_config",
    "ConsoleOptions.place_of",
    "CallOptions.checked",
    "CallOptions.wire_headers",
}
#: A class whose docstring says so has no constructor for users.
NOT_MADE_BY_USERS = re.compile(r"Made by|No\s+object\s+has\s+this\s+class")
#: First words of a docstring that says what is returned in its first sentence.
NOUN = re.compile(
    r"(A|An|All|Each|Every|How|It|Its|None|One|The|These|This|True|Two|Up|What|Whether|Which|Whose)\b|[`\"]"
)


class Name(NamedTuple):
    """A public name.

    Attributes:
        path: as users write it, such as ``pointsman.Client.deploy``.
        object: what griffe knows of it.
        owner: the class whose member it is.
    """

    path: str
    object: Any
    owner: Any = None


def load() -> Any:
    """The package, from its source, as the site reads it."""
    logging.getLogger("griffe").setLevel(logging.CRITICAL)
    extensions = griffe.load_extensions(str(ROOT / "tools" / "roles.py"))
    loader = griffe.GriffeLoader(extensions=extensions, search_paths=[SOURCE], docstring_parser=griffe.Parser.google)
    package = loader.load("pointsman")
    loader.resolve_aliases()
    return package


def public_names(package: Any) -> list[Name]:
    """Each public name once, under its shortest path."""
    found: dict[int, Name] = {}
    for module in MODULES:
        home = package[module] if module else package
        for name in exported(home):
            if f"{module}.{name}" in INSIDE:
                continue
            one = final(home.members[name])
            if not one.is_module and id(one) not in found:
                path = ".".join(filter(None, ("pointsman", SHOWN_AS.get(module, module), name)))
                for each in with_members(path, one):
                    found.setdefault(id(each.object) if each.owner is None else hash(each.path), each)
    return list(found.values())


def exported(module: Any) -> Iterator[str]:
    if module.exports is not None:
        yield from (name if isinstance(name, str) else name.name for name in module.exports)
    else:
        for name, one in module.members.items():
            ours = not one.is_alias or one.target_path.startswith(f"{module.path}.")
            if not name.startswith("_") and ours and not final(one).is_module:
                yield name


def final(one: Any) -> Any:
    return one.final_target if one.is_alias else one


def with_members(path: str, one: Any) -> Iterator[Name]:
    yield Name(path, one)
    if one.is_class:
        for name, member in members_of(one).items():
            if f"{one.name}.{name}" not in INSIDE_MEMBERS:
                yield Name(f"{path}.{name}", member, one)


def members_of(one: Any) -> dict[str, Any]:
    """Public members, with those of bases of ours."""
    found: dict[str, Any] = {}
    bases = [] if one.name == "ServeRequest" else one.mro()  # for isinstance alone
    for base in [one, *bases]:
        if base.path.startswith("pointsman."):
            for name, member in base.members.items():
                if not name.startswith("_") and not final(member).is_module:
                    found.setdefault(name, final(member))
    return found


def problems(name: Name) -> Iterator[str]:
    """What a reader of the reference would miss."""
    one = name.object
    if one.is_class:
        yield from _of_class(one)
    elif one.is_function:
        yield from _of_function(one)
    elif not one.has_docstring and not (name.owner is not None and one.name in described(name.owner)):
        yield "has no description"


def described(owner: Any) -> set[str]:
    """Attributes and arguments that the docstrings of a class, its bases and its constructors describe."""
    found: set[str] = set()
    for base in [owner, *owner.mro()]:
        for part in (base, base.members.get("__init__")):
            if part is not None and part.has_docstring:
                found |= entries(part, "parameters") | entries(part, "attributes")
    return found


def entries(one: Any, kind: str) -> set[str]:
    if not one.has_docstring:
        return set()
    sections = [section for section in one.docstring.parsed if section.kind.value == kind]
    return {name.strip("*` ") for section in sections for entry in section.value for name in entry.name.split(",")}


def _of_class(one: Any) -> Iterator[str]:
    if not one.has_docstring:
        yield "has no description"
        return
    init = members_with(one, "__init__")
    if init is not None and not NOT_MADE_BY_USERS.search(one.docstring.value):
        yield from _lacking(init, described(one))


def members_with(one: Any, name: str) -> Any:
    for base in [one, *one.mro()]:
        if name in base.members and base.path.startswith("pointsman."):
            return final(base.members[name])
    return None


def _of_function(one: Any) -> Iterator[str]:
    if not one.has_docstring:
        yield "has no description"
        return
    text = one.docstring.value
    kinds = {section.kind.value for section in one.docstring.parsed}
    yield from _lacking(one, entries(one, "parameters"))
    gives = str(one.returns) if one.returns is not None else "None"
    if gives not in ("None", "NoReturn") and not kinds & {"returns", "yields"} and not NOUN.match(text):
        yield f"does not say what it returns ({gives})"
    for error in sorted(raised(one)):
        if error not in text:
            yield f"does not say that it raises {error}"


def _lacking(function: Any, known: set[str]) -> Iterator[str]:
    missing = [
        parameter.name.lstrip("*")
        for parameter in function.parameters
        if parameter.name not in ("self", "cls") and not parameter.name.startswith("_")
    ]
    missing = [parameter for parameter in missing if parameter not in known]
    if missing:
        yield f"does not describe {', '.join(missing)}"


def raised(function: Any) -> set[str]:
    """Exceptions that a function raises itself, by name."""
    for node in functions_of(function.filepath):
        if node.lineno == _line_of(node, function):
            return {_name(each.exc) for each in ast.walk(node) if isinstance(each, ast.Raise) and each.exc} - {""}
    return set()


@cache
def functions_of(file: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    nodes = ast.walk(ast.parse(file.read_text()))
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _line_of(node: ast.FunctionDef | ast.AsyncFunctionDef, function: Any) -> int:
    first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
    return node.lineno if node.name == function.name and first == function.lineno else -1


def _name(raised: ast.expr) -> str:
    called = raised.func if isinstance(raised, ast.Call) else raised
    return called.id if isinstance(called, ast.Name) and called.id[0].isupper() else ""
