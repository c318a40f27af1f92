"""Finds the global names (module and object) in a pickle of protocol 5 without loading it.

The arguments of every handle call pass ``may_name_unfindable``, so it searches by regular expressions, which takes 0 to
3 microseconds (decision 0049) and may take data for names. ``globals_of`` reads the opcodes: exact, and slow.
"""

from __future__ import annotations

import pickletools
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from pointsman.usercode.findable import is_findable

# A global in a pickle of protocol 5: the text of its module, the text of its name, then STACK_GLOBAL (\x93). A text is
# given with its length (\x8c) and put into the memo (\x94), or it is taken from the memo (h, j). A new frame (\x95) may
# begin between them.
_ENDS = re.compile(rb"\x93(?:(?<=\x94\x93)|(?<=h.\x93)|(?<=j.{4}\x93))", re.DOTALL)
_GLOBAL = re.compile(
    rb"\x8c(.[^\x00-\x1f\x94]{1,255})\x94(?:\x95.{8})?"
    rb"(?:\x8c.[^\x00-\x1f\x94]{1,255}\x94|h.|j.{4})(?:\x95.{8})?\x93\Z",
    re.DOTALL,
)
# The end of a global whose module is taken from the memo, or whose name has the byte \x94 in it. Data matches it by
# chance now and then.
_BY_MEMO = re.compile(
    rb"(?=(?:h.|j.{4}|\x94)(?:\x95.{8})?(?:\x8c(.)(.{1,255})\x94|h.|j.{4})(?:\x95.{8})?\x93\Z)",
    re.DOTALL,
)
_TEXT = re.compile(rb"\x8c(?=(.)([^\x00-\x1f\x94]{1,255})\x94)", re.DOTALL)
# Length of the longest global: two texts, each with opcode, length, 255 bytes, memo opcode and frame; STACK_GLOBAL.
_LONGEST = 2 * (1 + 1 + 255 + 1 + 9) + 1
# Names of modules that are findable, as they stand in a pickle, with the modules. Most pickles name the same few.
_found: dict[bytes, tuple[str, Any]] = {}


def may_name_unfindable(packed: bytes, folders: Sequence[str] = ()) -> bool:
    """Whether a pickle of protocol 5 seems to name an object of a module that other processes do not find. It may be
    True without such a name, if data looks like one."""
    # hot: regular expressions in place of pickletools, 0 to 3 µs per handle call (decision 0049)
    if b"\x93" not in packed:
        return False
    by_memo = False
    for end in _ENDS.finditer(packed):
        found = _GLOBAL.search(packed, max(0, end.end() - _LONGEST), end.end())
        if found is None:  # the module's text is taken from the memo
            by_memo = by_memo or _is_by_memo(packed[max(0, end.end() - _LONGEST) : end.end()])
            continue
        known = _found.get(found[1])
        if known is not None and sys.modules.get(known[0]) is known[1]:
            continue
        name = found[1][1:].decode("utf-8", "replace")
        if found[1][0] != len(found[1]) - 1:  # the match begins within other data
            by_memo = True
            continue
        if not is_findable(name, folders):
            return True
        if not folders:
            _found[found[1]] = name, sys.modules.get(name)
    return by_memo and _has_unfindable_text(packed, folders)


def _is_by_memo(end: bytes) -> bool:
    return any(name is None or length[0] == len(name) for length, name in map(re.Match.groups, _BY_MEMO.finditer(end)))


def _has_unfindable_text(packed: bytes, folders: Sequence[str]) -> bool:
    """Whether a text in a pickle is the name of a loaded module that other processes do not find."""
    for found in _TEXT.finditer(packed):
        length, text = found.groups()
        if length[0] == len(text):
            name = text.decode("utf-8", "replace")
            if name in sys.modules and not is_findable(name, folders):
                return True
    return False


def is_plain(packed: bytes) -> bool:
    """Whether a pickle has nothing but values of built-in types, so that to load it runs no code. False for what is
    none."""
    try:
        return not any(opcode.name in _RUNS_CODE for opcode, _, _ in pickletools.genops(packed))
    except Exception:  # noqa: BLE001 - what is no pickle fails in any way
        return False


_CLASSES = {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
_RUNS_CODE = _CLASSES | {"REDUCE", "BUILD", "PERSID", "BINPERSID", "NEXT_BUFFER"}


def globals_of(packed: bytes) -> Iterator[tuple[str, str]]:
    """Module and name of every global in a pickle, in order."""
    memo: dict[int, str | None] = {}
    before: str | None = None
    top: str | None = None
    for opcode, argument, _ in pickletools.genops(packed):
        if opcode.name in ("PROTO", "FRAME"):
            continue
        if opcode.name == "MEMOIZE":
            memo[len(memo)] = top
            continue
        if opcode.name == "STACK_GLOBAL" and before is not None and top is not None:
            yield before, top
        elif opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            yield module, name
        if "UNICODE" in opcode.name:
            before, top = top, argument
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            before, top = top, memo.get(int(argument or 0))
        else:
            before = top = None
