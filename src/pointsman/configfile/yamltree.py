"""Reads YAML 1.2, and keeps the place of each value; and writes it. Pure.

The events of ruamel.yaml are used, and not its objects: so nothing but plain values can come out of a file, whatever
its tags say, and each value has its place.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from pointsman.configfile.problems import Place
from pointsman.configfile.tree import MAX_DEPTH, MAX_TEXT, MAX_VALUES, Keys, TextError, Tree

#: Plain scalars of the core schema of YAML 1.2.
_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_BASED_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)(\.inf|\.Inf|\.INF)")
_NAN = re.compile(r"\.nan|\.NaN|\.NAN")
#: Longer numbers are refused: Python itself refuses to read them from 4300 digits on.
_MAX_DIGITS = 1000
#: Texts that need no quotes: they are no number, bool or null of YAML 1.2, nor of YAML 1.1, which many still read.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_/@.+-]*(:[A-Za-z0-9_/@.+-]+)*")
_WORDS = re.compile(r"(?i:null|true|false|yes|no|on|off|y|n)")
#: Characters that JSON leaves as they are, and YAML does not print.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


class _Node:
    """A value as it stands in the file. ``content`` is a text, a list of nodes, or a list of pairs of nodes."""

    def __init__(self, kind: str, place: Place, content: Any, plain: bool = False) -> None:
        self.kind = kind
        self.place = place
        self.content = content
        self.plain = plain


def read_yaml(text: str) -> Tree:
    """The tree of a text.

    Raises:
        TextError: it is no YAML, has several documents, a name twice, a tag, or a name that is no text.
    """
    parser = YAML(typ="safe", pure=True)
    parser.version = (1, 2)
    composer = _Composer()
    try:
        root = composer.compose(parser.parse(text))
    except TextError:
        raise
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(part for part in (error.context, error.problem) if part)
        raise TextError((_place(mark) if mark is not None else None, f"it is no YAML: {said}")) from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise TextError((None, f"it is no YAML: {' '.join(str(error).split())}")) from None
    except AssertionError as error:  # so ruamel.yaml refuses a directive such as %YAML 1.3
        raise TextError((None, f"it is no YAML 1.2: {error}")) from None
    tree = Tree(None, {}, {})
    builder = _Builder(tree, composer.faults)
    value = builder.build(root, ()) if root is not None else None
    if composer.faults:
        raise TextError(*composer.faults)
    return tree._replace(value=value)


class _Composer:
    """Makes nodes of events. An alias is the node of its anchor."""

    def __init__(self) -> None:
        self.faults: list[tuple[Place | None, str]] = []
        self._anchors: dict[str, _Node] = {}

    def compose(self, events: Iterable[Any]) -> _Node | None:
        """The root; None of an empty file. No event is read after a fault that ends it: each level of nesting makes the
        rest slower to read."""
        stack: list[_Node] = [_Node("list", Place(1, 1), [])]
        documents = 0
        for event in events:
            place = _place(event.start_mark)
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents == 2:
                    self.faults.append((place, "a second document begins here; a file has one"))
            elif isinstance(event, (MappingEndEvent, SequenceEndEvent)):
                stack.pop()
            elif isinstance(event, NodeEvent):
                node = self._node(event, place)
                stack[-1].content.append(node)
                if isinstance(event, (MappingStartEvent, SequenceStartEvent)):
                    stack.append(node)
                if len(stack) > MAX_DEPTH:
                    raise TextError((place, f"it is nested deeper than {MAX_DEPTH} levels"))
        return stack[0].content[0] if stack[0].content else None

    def _node(self, event: Any, place: Place) -> _Node:
        if isinstance(event, AliasEvent):
            known = self._anchors.get(event.anchor)
            if known is None:
                self.faults.append((place, f"no value has the anchor &{event.anchor}"))
            return known if known is not None else _Node("text", place, "")
        if event.tag is not None:
            self.faults.append((place, f"the tag {str(event.tag)!r} is refused: values are written without tags"))
        if isinstance(event, ScalarEvent):
            node = _Node("text", place, event.value, plain=bool(event.implicit[0]) and not event.style)
        else:
            node = _Node("mapping" if isinstance(event, MappingStartEvent) else "list", place, [])
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node


class _Builder:
    """Makes values of nodes."""

    def __init__(self, tree: Tree, faults: list[tuple[Place | None, str]]) -> None:
        self._tree = tree
        self._faults = faults
        self._within: set[int] = set()
        self._values = self._length = 0

    def build(self, node: _Node, keys: Keys) -> Any:
        self._tree.places[keys] = node.place
        self._values += 1
        if self._values > MAX_VALUES:
            raise TextError((node.place, f"with its aliases the file has more than {MAX_VALUES} values"))
        if node.kind == "text":
            self._length += len(node.content)
            if self._length > MAX_TEXT:
                raise TextError((node.place, f"with its aliases the file has more than {MAX_TEXT} characters"))
            return self._scalar(node)
        if id(node) in self._within or len(keys) > MAX_DEPTH:
            raise TextError((node.place, f"it contains itself, or is nested deeper than {MAX_DEPTH} levels"))
        self._within.add(id(node))
        try:
            return self._mapping(node, keys) if node.kind == "mapping" else self._list(node, keys)
        finally:
            self._within.discard(id(node))

    def _list(self, node: _Node, keys: Keys) -> list[Any]:
        return [self.build(item, (*keys, index)) for index, item in enumerate(node.content)]

    def _mapping(self, node: _Node, keys: Keys) -> dict[str, Any]:
        found: dict[str, Any] = {}
        names = iter(node.content)
        for name in names:
            value = next(names)
            key = self._scalar(name) if name.kind == "text" else None
            if not isinstance(key, str):
                shown = name.content if name.kind == "text" else f"a {name.kind}"
                self._faults.append((name.place, f"the name {shown} is no text; write it in quotes"))
                continue
            if key == "<<" and name.plain:
                self._faults.append((name.place, "'<<' merges nothing in YAML 1.2; repeat the fields, or use an alias"))
                continue
            if key in found:
                self._faults.append((name.place, f"field {key!r} stands here a second time"))
                continue
            way = (*keys, key)
            self._tree.names[way] = name.place
            found[key] = self.build(value, way)
        return found

    def _scalar(self, node: _Node) -> Any:
        text: str = node.content
        if not node.plain:
            return text
        if _NULL.fullmatch(text):
            return None
        if _BOOL.fullmatch(text):
            return text.lower() == "true"
        is_number = _INT.fullmatch(text) or _BASED_INT.fullmatch(text) or _FLOAT.fullmatch(text)
        if is_number and len(text) > _MAX_DIGITS:
            self._faults.append((node.place, f"a number has more than {_MAX_DIGITS} digits"))
            return 0
        if _INT.fullmatch(text):
            return int(text)
        if _BASED_INT.fullmatch(text):
            return int(text, 0)
        if _FLOAT.fullmatch(text):
            return float(text)
        if match := _INFINITE.fullmatch(text):
            return -math.inf if match[1] == "-" else math.inf
        return math.nan if _NAN.fullmatch(text) else text


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)


# --- writing -------------------------------------------------------------------------------------------------


def write_yaml(value: dict[str, Any]) -> str:
    """A mapping as YAML: two spaces for each level, and short lists on one line."""
    return "".join(f"{line}\n" for line in _lines_of(value))


def _lines_of(value: Any) -> list[str]:
    if isinstance(value, dict) and value:
        lines = []
        for name, inner in value.items():
            below = _lines_of(inner) if isinstance(inner, dict) and inner else []
            if below:
                lines += [f"{_written(name)}:", *(f"  {line}" for line in below)]
            else:
                lines.append(f"{_written(name)}: {_flow(inner)}")
        return lines
    return [_flow(value)]


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_written(name)}: {_flow(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        return _written(value)
    if isinstance(value, float) and math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    return json.dumps(value)


def _written(text: str) -> str:
    if _PLAIN.fullmatch(text) and not _WORDS.fullmatch(text):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", quoted)
