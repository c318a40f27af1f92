"""A configuration file as a tree of plain values, where in the file each of them stands, and variables in them. Pure.

Variables are put into the values of a tree, and not into the text of a file, so that none can add structure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pointsman.configfile.problems import Place

#: The way to a value: names of fields, and indices of lists.
Keys = tuple[str | int, ...]
#: What is wrong with the value, or the name, at the end of that way.
Fault = tuple[Keys, str]

#: A deeper tree is refused: programs that read it work by recursion.
MAX_DEPTH = 64
#: More values are refused: aliases of YAML can make billions of them out of a small file.
MAX_VALUES = 100_000
#: More characters are refused, for the same reason: a file without aliases cannot have so many.
MAX_TEXT = 4 * 1024 * 1024


class Tree(NamedTuple):
    """The values of a file.

    Attributes:
        value: dicts, lists, texts, numbers, bools and None.
        places: of values.
        names: of the names of fields.
    """

    value: Any
    places: dict[Keys, Place]
    names: dict[Keys, Place]

    def place(self, keys: Keys, *, of_name: bool = False) -> Place | None:
        """The place of a value or of its name; of what it is part of, if it has none itself."""
        if of_name and keys in self.names:
            return self.names[keys]
        if keys in self.places:
            return self.places[keys]
        while keys:
            keys = keys[:-1]
            found = self.names.get(keys) or self.places.get(keys)
            if found is not None:
                return found
        return None


class TextError(ValueError):
    """A file is not of its format.

    Attributes:
        faults: what is wrong, each with its place; None where that is not known.
    """

    def __init__(self, *faults: tuple[Place | None, str]) -> None:
        super().__init__(faults[0][1])
        self.faults = faults


def mapped(value: Any, change: Callable[[Keys, Any], Any], keys: Keys = ()) -> Any:
    """A copy of a tree's values in which each that is no dict or list is what ``change`` makes of it."""
    if isinstance(value, dict):
        return {name: mapped(inner, change, (*keys, name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [mapped(inner, change, (*keys, index)) for index, inner in enumerate(value)]
    return change(keys, value)


_REFERENCE = re.compile(r"\$\$|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^}]*)?\})?")


def interpolate(value: Any, variables: Mapping[str, str]) -> tuple[Any, list[Fault]]:
    """A copy of a tree's values in which texts are interpolated; and what is wrong with the references.

    ``${X}`` is the variable X; ``${X:-text}`` too, and ``text`` if that is not set or empty; ``$$`` is ``$``. What
    comes out is a text, and is not looked at again. Names of fields stay as they are.
    """
    faults: list[Fault] = []

    def change(keys: Keys, value: Any) -> Any:
        if not isinstance(value, str) or "$" not in value:
            return value
        return _REFERENCE.sub(lambda match: _replacement(match, keys), value)

    def _replacement(match: re.Match[str], keys: Keys) -> str:
        name, default = match["name"], match["default"]
        if match[0] == "$$":
            return "$"
        if name is None:
            faults.append(
                (keys, "'${' must be followed by the name of a variable and '}'; for the two characters write '$${'")
            )
            return ""
        value = variables.get(name) or (default or "").removeprefix(":-")
        if not is_text(value):
            faults.append((keys, f"environment variable {name} is not UTF-8; set it to a text"))
            return ""
        if default is None and name not in variables:
            faults.append(
                (keys, f"environment variable {name} is not set; set it, or give a default: ${{{name}:-...}}")
            )
        return value

    return mapped(value, change), faults


def is_text(value: str) -> bool:
    """Whether a text can be sent: it has no half characters (lone surrogates)."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def escaped(text: str) -> str:
    """A text that is interpolated to ``text``."""
    return text.replace("$", "$$")
