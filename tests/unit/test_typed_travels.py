"""Typed code comes to its replicas whole, also where they cannot import its module and its annotations are text."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pointsman.usercode.packing import inspect_code, pack_code

MODELS = Path(__file__).parent.parent / "loop" / "flowers.py"
REPLICA = """
import asyncio, inspect, json, sys
from pointsman.incoming import CODEC_HTTP, Incoming, RequestHead
from pointsman.model import TargetTraits
from pointsman.replica.target import Target

target = Target(sys.stdin.buffer.read(), TargetTraits(is_class=sys.argv[1] == "class"))
target.construct()
method = target.method("")
head = RequestHead("e", CODEC_HTTP, "", "POST", b"/", b"", [(b"content-type", b"application/json")])
answer = method.call(method.request(Incoming(head, sys.argv[2].encode(), None)))
print(method.encode(asyncio.run(answer) if inspect.isawaitable(answer) else answer, head).body.decode())
"""


@pytest.fixture
def models() -> Iterator[Any]:
    """The module of models under a name that no replica can import."""
    spec = importlib.util.spec_from_file_location("flowers_of_nowhere", MODELS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def answered(model: Any, body: Any) -> Any:
    """What a replica in a process of its own answers."""
    traits = inspect_code(model, ())
    kind = "class" if traits.is_class else "function"
    command = [sys.executable, "-c", REPLICA, kind, json.dumps(body)]
    done = subprocess.run(command, input=pack_code(model, ()), capture_output=True, cwd="/", timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.mark.slow
def test_models_of_a_script_travel(models: Any) -> None:
    """Pydantic models, dataclasses, Structs and typed dicts of a script are whole in its replicas (TY1)."""
    flower = {"sepal": 5.5, "petals": [{"width": 1}]}
    assert answered(models.Model, flower) == {"label": "Flower 3 []", "score": 5.5}
    pot = {"size": 1, "inner": [{"size": 2, "inner": []}]}
    assert answered(models.pot, pot) == pot
    leaf = {"length": 1, "veins": [{"length": 2, "veins": [], "edge": "rough"}], "edge": "smooth"}
    assert answered(models.leaf, leaf) == leaf
    assert answered(models.garden, {"soil": {"ph": 7.0}, "x": 1}) == {"soil": {"ph": 7.0}}
    assert answered(models.array, [1, 2]) == [2.0, 4.0]


def local_model() -> Any:
    """A function with models that stand beside what cannot be sent."""
    lock = threading.Lock()

    class Leaf(BaseModel):
        length: int

    class Branch(BaseModel):
        leaves: list[Leaf]
        branch: Branch | None = None

    def model(branch: Branch) -> Leaf:
        return branch.leaves[0]

    model.__annotations__ = {"branch": Branch, "return": Leaf}
    assert lock
    return model


@pytest.mark.slow
def test_models_inside_a_function_travel_alone() -> None:
    """I define a pydantic model in ``main()``, beside my client, and it is sent without that (TY1)."""
    assert answered(local_model(), {"leaves": [{"length": 2}], "branch": {"leaves": []}}) == {"length": 2}


def test_structs_by_value_keep_what_they_are() -> None:
    """Defaults, tags, names on the wire, methods and ``__post_init__`` travel with a Struct (TY1)."""
    import cloudpickle
    import msgspec

    from pointsman.usercode.byvalue import dumps

    class Base(msgspec.Struct, kw_only=True):
        id: int = 7

    class Kept(Base, frozen=True, tag="kept", rename="camel", forbid_unknown_fields=True, order=True):
        """Kept."""

        first_name: str
        others: list[int] = []
        child: Kept | None = None

        def shout(self) -> str:
            return self.first_name.upper()

    class After(msgspec.Struct):
        size: int

        def __post_init__(self) -> None:
            self.size += 1

    for module in (Base, Kept, After):
        module.__module__ = "__main__"  # which replicas cannot import
    loaded = cloudpickle.loads(dumps(Kept))
    assert loaded is not Kept
    data = b'{"type":"kept","firstName":"ada","id":9,"child":{"type":"kept","firstName":"b"}}'
    value = msgspec.json.decode(data, type=loaded)
    assert (value.shout(), value.id, value.others, value.child.first_name, loaded.__doc__) == (
        "ADA",
        9,
        [],
        "b",
        "Kept.",
    )
    assert value.child.others is not value.others
    assert msgspec.json.decode(msgspec.json.encode(value), type=loaded) == value
    with pytest.raises(AttributeError):
        value.first_name = "x"
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(b'{"type":"kept","firstName":"a","z":1}', type=loaded)
    assert cloudpickle.loads(dumps(After))(1).size == 2


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python has no aliases of types before 3.12")
def test_aliases_of_types() -> None:
    """``type Flowers = list[Flower]`` is what it stands for, also when it refers to itself (TY1)."""
    import typing

    from pointsman.usercode import kinds
    from tests.loop.flowers import Flower

    names: dict[str, Any] = {"Flower": Flower}
    exec("type Flowers = list[Flower]\ntype Tree = list[Tree] | Flower\ntype Of[T] = dict[str, T]", names)
    assert kinds.is_typed(names["Flowers"])
    assert kinds.is_typed(names["Tree"])
    assert kinds.is_typed(names["Of"][Flower])
    assert not kinds.is_typed(names["Of"][int])
    assert typing.get_origin(kinds.named(names["Flowers"])) is list


@pytest.mark.parametrize("module", ["replica.__main__", "ingress.__main__"])
def test_what_is_not_typed_pays_for_nothing(module: str) -> None:
    """A process whose code is not typed loads neither pydantic nor numpy (TY1)."""
    program = f"import sys, pointsman.{module}; print([name for name in ('pydantic', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
