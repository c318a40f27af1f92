"""wire.messages: every head survives the way there, newer peers are understood, and wrong ones are refused."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from enum import Enum

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from pointsman import model
from pointsman.wire import auth, commands, handover, messages
from pointsman.wire.commands import AnyCommand, Command, SetTraffic
from pointsman.wire.frames import WireError
from pointsman.wire.messages import Message, pack, unpack
from tests.properties import examples

scalars = st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=5) | st.binary(max_size=5)
PLAIN: dict[object, st.SearchStrategy[typing.Any]] = {
    int: st.integers(0, 2**63 - 1),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=12),
    bytes: st.binary(max_size=12),
    bool: st.booleans(),
    type(None): st.none(),
    typing.Any: scalars,
}


def values_of(kind: typing.Any) -> st.SearchStrategy[typing.Any]:
    """Values of a field's type; fails on a type that no message has had so far."""
    if kind in PLAIN:
        return PLAIN[kind]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{name: values_of(hints[name]) for name in kind.__struct_fields__})
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, *(values_of(hints[name]) for name in kind._fields))
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(values_of, parts))
    if origin is list:
        return st.lists(values_of(parts[0]), max_size=3)
    if origin is tuple and parts[-1] is ...:
        return st.lists(values_of(parts[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values_of, parts))
    assert origin is dict, f"no values for {kind!r}"
    return st.dictionaries(values_of(parts[0]), values_of(parts[1]), max_size=3)


def structs_of(*modules: types.ModuleType) -> Iterator[type[msgspec.Struct]]:
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__ == module.__name__:
                yield value


EVERYTHING = sorted(set(structs_of(messages, commands, handover, auth, model)), key=lambda kind: kind.__name__)
EVERYTHING = [kind for kind in EVERYTHING if kind.__struct_fields__]
HEADS = [kind for kind in EVERYTHING if issubclass(kind, Message)]
COMMANDS = [kind for kind in EVERYTHING if issubclass(kind, typing.get_args(AnyCommand))]
quick = examples(15, suppress_health_check=[HealthCheck.too_slow])


def name_of(kind: type) -> str:
    return kind.__name__


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERYTHING, ids=name_of)
def test_everything_survives_the_way_there(kind: type[msgspec.Struct]) -> None:
    """What one process sends is what the other one gets, field by field."""

    @quick
    @given(value=values_of(kind))
    def check(value: msgspec.Struct) -> None:
        assert unpack(pack(value), kind) == value

    check()


@pytest.mark.parametrize("kind", COMMANDS, ids=name_of)
def test_commands_name_themselves(kind: type[Command]) -> None:
    """The controller tells the commands apart by what they say they are."""

    @quick
    @given(value=values_of(kind))
    def check(value: Command) -> None:
        got = unpack(pack(value), typing.cast("type[typing.Any]", AnyCommand))
        assert type(got) is kind
        assert got == value

    check()


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEADS, ids=name_of)
def test_fields_of_a_newer_peer_are_ignored(kind: type[Message]) -> None:
    """A newer peer may add fields at the end, of any type, and is still understood (DM6)."""

    @quick
    @given(value=values_of(kind), more=st.lists(scalars | st.lists(scalars, max_size=2), min_size=1, max_size=3))
    def check(value: Message, more: list[object]) -> None:
        fields = msgspec.msgpack.decode(pack(value), strict=False)
        assert unpack(msgspec.msgpack.encode([*fields, *more]), kind) == value

    check()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in EVERYTHING if kind not in HEADS], ids=name_of)
def test_keys_of_a_newer_peer_are_ignored(kind: type[msgspec.Struct]) -> None:
    """A newer peer may add keys to a command or a noun, and is still understood (DM6)."""

    @quick
    @given(value=values_of(kind), more=scalars)
    def check(value: msgspec.Struct, more: object) -> None:
        fields = {**msgspec.msgpack.decode(pack(value)), "a field of next year": more}
        assert unpack(msgspec.msgpack.encode(fields), kind) == value

    check()


WRONG = [[[], {}, None]]
"""No field of ours is a list of such lists."""


@pytest.mark.parametrize("kind", HEADS, ids=name_of)
def test_each_field_is_checked(kind: type[Message]) -> None:
    """A head with one field of another type, or one field too few, is refused (F29)."""

    @quick
    @given(value=values_of(kind))
    def check(value: Message) -> None:
        fields = msgspec.msgpack.decode(pack(value))
        for position in range(len(kind.__struct_fields__)):
            wrong = [*fields[:position], WRONG, *fields[position + 1 :]]
            with pytest.raises(WireError, match=f"message is not a {kind.__name__}"):
                unpack(msgspec.msgpack.encode(wrong), kind)
        required = [field for field in msgspec.structs.fields(kind) if field.required]
        with pytest.raises(WireError):
            unpack(msgspec.msgpack.encode(fields[: len(required) - 1] if required else {}), kind)

    check()


@pytest.mark.parametrize("kind", COMMANDS, ids=name_of)
def test_each_key_of_a_command_is_checked(kind: type[Command]) -> None:
    """A command with one field of another type, or without one that it needs, is refused (F29)."""

    @quick
    @given(value=values_of(kind))
    def check(value: Command) -> None:
        fields = msgspec.msgpack.decode(pack(value))
        for field in msgspec.structs.fields(kind):
            with pytest.raises(WireError):
                unpack(msgspec.msgpack.encode({**fields, field.name: WRONG}), kind)
            if field.required:
                with pytest.raises(WireError):
                    unpack(msgspec.msgpack.encode({k: v for k, v in fields.items() if k != field.name}), kind)

    check()


@pytest.mark.parametrize("number", ["1", 1, True, None, [1], b"1", 1.5])
def test_numbers_are_not_guessed(number: object) -> None:
    """A number spelled as text is refused on the wire, where both ends are ours; only real numbers pass (TR1)."""
    data = msgspec.msgpack.encode({"command": "set_traffic", "id": "x", "name": "e", "weights": {"b": number}})
    if isinstance(number, (int, float)) and not isinstance(number, bool):
        assert unpack(data, SetTraffic).weights == {"b": float(number)}
    else:
        with pytest.raises(WireError, match="weights"):
            unpack(data, SetTraffic)


@pytest.mark.parametrize("command", ["", "drop_everything", None, 3])
def test_unknown_commands_are_refused(command: object) -> None:
    """A command that this release does not know is refused (F29)."""
    with pytest.raises(WireError):
        unpack(msgspec.msgpack.encode({"command": command, "id": "x"}), typing.cast("type[typing.Any]", AnyCommand))


@examples(300)
@given(data=st.binary(max_size=60), kind=st.sampled_from([*HEADS, AnyCommand]))
def test_garbage_is_refused(data: bytes, kind: typing.Any) -> None:
    """Random bytes in place of a head raise a WireError and nothing else (F29)."""
    try:
        unpack(data, kind)
    except WireError:
        pass


@pytest.mark.parametrize(
    "changes",
    [
        b"\x81\x80\x01",  # a map as the key of a map
        b"\x81\xa1a" + b"\x91" * 200_000 + b"\x01",  # nested deeper than any stack
        b"\x81\xa1a\xdd\xff\xff\xff\xff",  # says that it has 4 billion elements
        b"\x81\xa1a\xdf\xff\xff\xff\xff",
        b"\x81\xa1a\xc6\xff\xff\xff\xff",
        b"\x81\xa1a\xd7\xff" + b"\xff" * 8,  # a time that is none
        b"\x81\xa2\xff\xfe\x01",  # a key that is no UTF-8
        b"\x81\xa1a\xc1",  # the byte that msgpack never uses
    ],
    ids=["map as key", "nesting", "long list", "long map", "long bytes", "time", "not utf-8", "never used"],
)
def test_hostile_heads_are_refused(changes: bytes) -> None:
    """A head that is made to exhaust or confuse its reader is refused like any other (F29)."""
    head = b"\x85\xa7command\xb5update_backend_config\xa2id\xa1x\xa3tag\xa1t\xa7changes" + changes
    with pytest.raises(WireError):
        unpack(head + b"\xabuser_config\xc0", typing.cast("type[typing.Any]", AnyCommand))


@pytest.mark.parametrize("kind", HEADS[:3], ids=name_of)
def test_trailing_bytes_are_refused(kind: type[Message]) -> None:
    """Bytes behind a complete head mean that the two ends disagree, and the head is refused (F29)."""

    @quick
    @given(value=values_of(kind), more=st.binary(min_size=1, max_size=4))
    def check(value: Message, more: bytes) -> None:
        with pytest.raises(WireError):
            unpack(pack(value) + more, kind)

    check()
