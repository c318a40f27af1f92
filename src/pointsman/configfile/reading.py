"""Reads a configuration file, once and by one open, so that it is of one piece whoever replaces it meanwhile."""

from __future__ import annotations

import math
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any, NamedTuple

from pointsman.configfile.jsontree import read_json
from pointsman.configfile.problems import BadFileError, Place, Problem
from pointsman.configfile.tree import MAX_DEPTH, Fault, Keys, TextError, Tree, is_text, mapped

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_FILE = 1024 * 1024
MAX_INT = 2**63 - 1
#: Of a problem, in characters.
LONGEST = 1000
SUFFIXES = (".yaml", ".yml", ".toml", ".json")
_AT = re.compile(r" \(at line (\d+), column (\d+)\)$")


class Document(NamedTuple):
    """A file that was read.

    Attributes:
        file: its path, as the user gave it.
        folder: its folder, absolute.
        tree: what is in it.
    """

    file: str
    folder: Path
    tree: Tree

    def problem(self, keys: Keys, text: str, *, of_name: bool = False) -> Problem:
        """A problem with one of its values, or with the name of one."""
        if len(text) > LONGEST:  # a value of the file is in the middle
            text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
        return Problem(self.file, self.tree.place(keys, of_name=of_name), text)


def read_document(path: str | os.PathLike[str]) -> Document:
    """Read a file.

    Raises:
        BadFileError: it cannot be read, is over 1 MiB, or not of the format that its suffix says.
    """
    file = os.fspath(path)
    suffix = Path(file).suffix.lower()
    if suffix not in SUFFIXES:
        raise BadFileError([Problem(file, None, f"its name must end in one of {', '.join(SUFFIXES)}")])
    try:
        # Without O_NONBLOCK to open a pipe that nobody writes to would wait for ever.
        with open(file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise ValueError("it is no regular file")
            data = opened.read(MAX_FILE + 1)
        folder = Path(file).absolute().parent
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadFileError([Problem(file, None, f"it cannot be read: {why}")]) from None
    return Document(file, folder, parse(file, data, suffix))


def parse(file: str, data: bytes, suffix: str) -> Tree:
    """The tree of a file's content. Raises :class:`BadFileError`."""
    if len(data) > MAX_FILE:
        raise BadFileError([Problem(file, None, "it is over 1 MiB; a configuration file may have that at most")])
    try:
        text = data.decode("utf-8-sig")
        tree = _parse_text(text, suffix)
    except UnicodeDecodeError as error:
        before = data[: error.start]
        place = Place(before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1)
        raise BadFileError([Problem(file, place, "it is not UTF-8")]) from None
    except TextError as error:
        raise BadFileError(Problem(file, place, text) for place, text in error.faults) from None
    if faults := _odd_values(tree.value):
        raise BadFileError(Problem(file, tree.place(keys), text) for keys, text in faults)
    return tree


def _parse_text(text: str, suffix: str) -> Tree:
    if suffix == ".json":
        return read_json(text)
    if suffix == ".toml":
        return _read_toml(text)
    # Imported here: it takes 50 ms, which files of the other kinds need not wait for.
    from pointsman.configfile.yamltree import read_yaml

    return read_yaml(text)


def _read_toml(text: str) -> Tree:
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = _AT.search(str(error))
        place = Place(int(at[1]), int(at[2])) if at else None
        raise TextError((place, f"it is no TOML: {_AT.sub('', str(error))}")) from None
    except RecursionError:
        raise TextError((None, "it is nested too deeply")) from None
    except ValueError as error:  # a number that Python refuses to read
        raise TextError((None, f"it is no TOML: {error}")) from None
    if _is_deeper(value, MAX_DEPTH):
        raise TextError((None, f"it is nested deeper than {MAX_DEPTH} levels"))
    return Tree(value, {}, {})


def _is_deeper(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth < 0 or any(_is_deeper(one, depth - 1) for one in inner)


def _is_max_body(keys: Keys) -> bool:
    return len(keys) == 3 and keys[0] == "endpoints" and keys[2] == "max_body_bytes"


def _is_of_user(keys: Keys) -> bool:
    """Whether a value goes to code of users, which may take longer numbers than messages have."""
    return keys[:1] == ("backends",) and (keys[2:3] == ("args",) or keys[2:4] == ("config", "user_config"))


def _odd_values(value: Any) -> list[Fault]:
    """Values that no field can have: what is no JSON, and texts that cannot be sent."""
    faults: list[Fault] = []

    def check(keys: Keys, value: Any) -> Any:
        if isinstance(value, str):
            if not is_text(value):
                faults.append((keys, "the text has half a character (a lone surrogate)"))
        elif value is not None and not isinstance(value, (bool, int, float)):
            faults.append((keys, f"a {type(value).__name__} is no value here; write {str(value)!r} in quotes"))
        elif isinstance(value, float) and not math.isfinite(value) and not _is_max_body(keys):
            faults.append((keys, f"{value} is no number that a field can have"))
        elif isinstance(value, int) and abs(value) > MAX_INT and not _is_of_user(keys):
            faults.append((keys, f"a whole number that no field can have: they end at {MAX_INT}"))
        for depth, key in enumerate(keys):
            if isinstance(key, str) and not is_text(key):
                faults.append((keys[: depth + 1], f"the name {key!r} has half a character (a lone surrogate)"))
        return value

    mapped(value, check)
    return faults
