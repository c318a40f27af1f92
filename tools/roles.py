"""What docstrings say in Sphinx's way, as Markdown: an extension of griffe, by which mkdocstrings reads them."""

from __future__ import annotations

import re
from typing import Any

import griffe

SEVERAL = re.compile(r"^    (\w+(?:, \w+)+): ((?:.*\n?)(?:^        .*\n?)*)", re.MULTILINE)
ROLE = re.compile(r":(?:class|func|meth|attr|mod|exc|data):`~?!?([^`<>]+)`")


class Roles(griffe.Extension):
    """Writes ``:meth:`stop``` as ```stop```, and an entry for each of several arguments that share one."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of what was read."""
        if obj.docstring is not None:
            obj.docstring.value = SEVERAL.sub(_each, ROLE.sub(r"`\1`", obj.docstring.value))


def _each(entry: re.Match[str]) -> str:
    names = entry[1].split(", ")
    if names[0].endswith(("Error", "Exception")):
        return entry[0]
    return "".join(f"    {name}: {entry[2].rstrip()}\n" for name in names)
