"""routing.chooser: pin, then policy of one's own, then shard key, then weights; and no policy ever loses a call."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pointsman.incoming import RequestHead
from pointsman.model import CustomPolicy, EndpointSpec, Pins, TrafficPolicy
from pointsman.policy.traffic import CallInfo, TrafficSplit
from pointsman.routing.call import Call
from pointsman.routing.chooser import Chooser
from pointsman.routing.ownpolicy import load_policy
from pointsman.usercode.packing import import_object

HALVES = {"a": 0.5, "b": 0.5}
SEEN: list[tuple[CallInfo, TrafficSplit, float]] = []
"""What ``Note`` was asked."""


class Note:
    """Writes down what it is asked, and always chooses ``b``."""

    def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> str:
        SEEN.append((call, split, draw))
        return "b"


class Raises:
    def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> str:
        raise KeyError("no such tenant")


class NamesNobody:
    def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> Any:
        return "nobody"


class NamesNothing:
    def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> Any:
        return None


class NamesAList:
    def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> Any:
        return ["a"]


class Unspeakable(Exception):
    """Cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


class RaisesTheUnspeakable:
    def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> str:
        raise Unspeakable


class NamesTheUnspeakable:
    def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> Any:
        return Unspeakable()


class PosesAsABackend:
    """Equal to each name, and no name."""

    def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> Any:
        return type("Any", (), {"__eq__": lambda self, other: True, "__hash__": lambda self: hash("a")})()


class Rambles:
    def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> str:
        raise ValueError("bla " * 100_000)


class Waits:
    async def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> str:
        return "a"


class Exits:
    def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> str:
        raise SystemExit("goodbye")


class TakesTooLittle:
    def choose(self) -> str:
        return "a"


class NeedsArguments:
    def __init__(self, model: str) -> None:
        pass

    def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> str:
        return "a"


class WrongMethod:
    def pick(self) -> None: ...


noting = Note()
not_callable = type("Odd", (), {"choose": 5})()
FAULTY = [
    Raises,
    NamesNobody,
    NamesNothing,
    NamesAList,
    RaisesTheUnspeakable,
    NamesTheUnspeakable,
    PosesAsABackend,
    Rambles,
]


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    SEEN.clear()


def chooser(
    custom: str | None = None, *, weights: dict[str, float] | None = None, pins: dict[str, str] | None = None
) -> Chooser:
    policy = TrafficPolicy(7, weights or HALVES, custom=CustomPolicy(custom) if custom else None)
    return Chooser(EndpointSpec("e", None, ("GET",), policy), Pins(pins or {}))


def here(name: str) -> str:
    return f"{__name__}:{name}"


class Future:
    """Nobody waits for these calls."""

    def done(self) -> bool:
        return False

    def cancel(self) -> None: ...

    def set_result(self, result: Any) -> None: ...

    def set_exception(self, exception: BaseException) -> None: ...


def call(shard_key: str | None = None, **fields: Any) -> Call:
    return Call(RequestHead("e", **fields), deadline=1.0, future=Future(), shard_key=shard_key)


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Callable[[str, str], str]]:
    """Writes modules that only ``sys_path`` leads to, and forgets them."""
    path, modules = list(sys.path), set(sys.modules)

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return str(tmp_path)

    yield write
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


# --- the order of ways ----------------------------------------------------------------------------------------


def test_calls_without_a_key_are_drawn_by_weight() -> None:
    """Without key and pin the draw decides, each time anew (TR3)."""
    chosen = chooser(pins={"": "b"})
    assert [chosen.choose(call(), draw) for draw in (0.0, 0.49, 0.5, 0.99)] == ["a", "a", "b", "b"]


def test_a_key_decides_before_the_draw() -> None:
    """A user with a key is with one backend whatever is drawn, the one of the documented map (SA1, SA3)."""
    chosen = chooser()
    for key in ("", "alice", "bob", "Zoë"):
        homes = {chosen.choose(call(key), draw) for draw in (0.0, 0.3, 0.6, 0.999999)}
        assert homes == {chosen.split.by_key(key)}


def test_a_pin_decides_before_the_key() -> None:
    """A pinned user is with the pinned backend, which needs no weight; all others stay where they are (SA1)."""
    plain, pinned = chooser(), chooser(pins={"alice": "c", "": "a"})
    assert pinned.choose(call("alice"), 0.5) == "c"
    assert pinned.choose(call(""), 0.5) == "a"
    for key in ("Alice", "bob", "alice "):
        assert pinned.choose(call(key), 0.5) == plain.choose(call(key), 0.5)


def test_a_policy_decides_before_key_and_weight_and_after_a_pin() -> None:
    """A policy of the user's own has the word on every call that is not pinned (TR3)."""
    chosen = chooser(here("Note"), weights={"a": 1.0, "b": 0.0}, pins={"alice": "a"})
    assert chosen.choose(call("alice"), 0.5) == "a"
    assert SEEN == []
    assert chosen.choose(call("bob"), 0.5) == "b"
    assert chosen.choose(call(), 0.5) == "b"


def test_a_policy_knows_the_call() -> None:
    """A policy sees key, path, query, headers and the running number of the call, and the split that it may use."""
    chosen = chooser(here("noting"))
    headers = [(b"x-tenant", b"acme")]
    chosen.choose(call("alice", http_method="POST", path=b"/a%20b", query=b"c=d", headers=headers), 0.25)
    chosen.choose(call(), 0.75)
    chosen.choose(call(""), 0.5)
    assert SEEN[0] == (CallInfo("e", "alice", 0, "POST", b"/a%20b", b"c=d", headers), chosen.split, 0.25)
    assert [(info.shard_key, info.number, draw) for info, _, draw in SEEN] == [
        ("alice", 0, 0.25),
        (None, 1, 0.75),
        ("", 2, 0.5),
    ]
    assert (chosen.split.endpoint, chosen.split.version, dict(chosen.split.weights)) == ("e", 7, HALVES)


def test_a_policy_cannot_change_the_weights() -> None:
    """What a policy is given to read it cannot write (CL3)."""
    chosen = chooser(here("Note"))
    chosen.choose(call(), 0.5)
    with pytest.raises(TypeError):
        SEEN[0][1].weights["a"] = 1.0  # type: ignore[index]


# --- explain --------------------------------------------------------------------------------------------------


def test_explain_tells_way_and_numbers() -> None:
    """An operator sees why a user is where they are: pin, key with every backend's number, or the weights (SA6)."""
    chosen = chooser(weights={"a": 0.5, "b": 0.5, "c": 0.0}, pins={"alice": "c"})
    common = {"endpoint": "e", "policy_version": 7, "weights": {"a": 0.5, "b": 0.5, "c": 0.0}}
    assert chosen.explain(None) == {**common, "shard_key": None, "backend": None, "why": "weight", "numbers": {}}
    assert chosen.explain("alice") == {**common, "shard_key": "alice", "backend": "c", "why": "pin", "numbers": {}}
    bob = chosen.explain("bob")
    assert bob["why"] == "shard key"
    assert bob["backend"] == chosen.choose(call("bob"), 0.5) == min("ab", key=bob["numbers"].__getitem__)
    assert set(bob["numbers"]) == {"a", "b"}


def test_explain_knows_when_there_is_no_choice() -> None:
    """Where one backend has all the weight, explain names it for calls without a key, too (SA6)."""
    chosen = chooser(weights={"a": 1.0, "b": 0.0})
    assert (chosen.explain(None)["why"], chosen.explain(None)["backend"]) == ("weight", "a")
    assert chooser(here("Note"), weights={"a": 1.0, "b": 0.0}).explain(None)["backend"] is None


def test_explain_asks_the_policy() -> None:
    """With a policy of one's own, explain says so, and asks it where a key goes; pins still come first."""
    chosen = chooser(here("Note"), pins={"alice": "a"})
    assert (chosen.explain("bob")["why"], chosen.explain("bob")["backend"]) == ("policy", "b")
    assert (chosen.explain(None)["why"], chosen.explain(None)["backend"]) == ("policy", None)
    assert (chosen.explain("alice")["why"], chosen.explain("alice")["backend"]) == ("pin", "a")
    assert chooser(here("Missing")).explain("bob")["why"] == "shard key"


@pytest.mark.parametrize("policy", FAULTY)
def test_explain_names_the_backend_that_would_answer(policy: type) -> None:
    """Where a faulty policy gives way to the built-in choice, explain names the backend that calls really go to."""
    chosen = chooser(here(policy.__name__))
    assert chosen.explain("bob")["backend"] == chosen.choose(call("bob"), 0.5)


# --- policies that fail ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", FAULTY)
def test_a_faulty_policy_loses_no_call(policy: type, caplog: pytest.LogCaptureFixture) -> None:
    """A policy that raises or names no backend gives way to key and weight, and the log names the endpoint (CL3)."""
    chosen, plain = chooser(here(policy.__name__)), chooser()
    for key, draw in ((None, 0.1), (None, 0.9), ("alice", 0.5), ("bob", 0.5)):
        assert chosen.choose(call(key), draw) == plain.choose(call(key), draw)
    assert len(caplog.records) == 4
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    assert "the traffic policy of endpoint 'e'" in caplog.text
    assert "the built-in one is used" in caplog.text


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("Raises", "raised KeyError('no such tenant')"),
        ("NamesNobody", "named 'nobody', which is none of ['a', 'b']"),
        ("NamesAList", "named ['a'], which is none of"),
        ("RaisesTheUnspeakable", "raised <Unspeakable instance"),
        ("NamesTheUnspeakable", "named <Unspeakable instance"),
        ("Rambles", "raised ValueError('bla bla"),
    ],
)
def test_the_log_says_what_the_policy_did(policy: str, words: str, caplog: pytest.LogCaptureFixture) -> None:
    """The author of a faulty policy reads in the log what it did, in a line of a length that can be read (H10)."""
    chooser(here(policy)).choose(call(), 0.5)
    assert words in caplog.text
    assert len(caplog.text) < 500


def test_a_faulty_policy_does_not_drown_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand failures in a second are ten lines, and the next second ten more (H10)."""
    clock = [100.0]
    monkeypatch.setattr("pointsman.routing.chooser.time.monotonic", lambda: clock[0])
    chosen, hits = chooser(here("Raises")), Counter[str]()
    for _ in range(1000):
        hits[chosen.choose(call(), 0.7)] += 1
    assert hits == {"b": 1000}
    assert len(caplog.records) == 10
    clock[0] += 1.0
    for _ in range(1000):
        chosen.choose(call(), 0.7)
    assert len(caplog.records) == 20


@pytest.mark.parametrize(
    "path",
    [
        here("Missing"),
        "no_such_module_anywhere:Policy",
        "no dots or colon",
        here("WrongMethod"),
        here("not_callable"),
        here("FAULTY"),
        here("NeedsArguments"),
    ],
)
def test_a_policy_that_cannot_be_had(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Where a policy cannot be imported the built-in choice serves, and one line in the log says so (CL3)."""
    chosen, plain = chooser(path), chooser()
    for key, draw in ((None, 0.1), (None, 0.9), ("alice", 0.5)):
        assert chosen.choose(call(key), draw) == plain.choose(call(key), draw)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert repr(path) in record.getMessage()
    assert "'e'" in record.getMessage()


def test_a_module_that_fails_to_import(module: Callable[[str, str], str], caplog: pytest.LogCaptureFixture) -> None:
    """A policy's module that raises while it is imported loses no call either (CL3)."""
    folder = module("breaks_on_import", "1 / 0")
    custom = CustomPolicy("breaks_on_import:policy", (folder,))
    spec = EndpointSpec("e", None, ("GET",), TrafficPolicy(1, HALVES, custom=custom))
    assert Chooser(spec).choose(call(), 0.0) == "a"
    assert "ZeroDivisionError" in caplog.text


def test_a_policy_that_exits_ends_no_router(module: Callable[[str, str], str]) -> None:
    """``sys.exit()`` in a policy, or in its module, ends neither the call nor the process that serves (CL3)."""
    assert chooser(here("Exits")).choose(call(), 0.0) == "a"
    custom = CustomPolicy("exits_on_import:policy", (module("exits_on_import", "raise SystemExit(1)"),))
    spec = EndpointSpec("e", None, ("GET",), TrafficPolicy(1, HALVES, custom=custom))
    assert Chooser(spec).choose(call(), 0.0) == "a"


# --- import paths ---------------------------------------------------------------------------------------------

TEXT = """
class Policy:
    def choose(self, call, split, draw):
        return "b"

class Holder:
    instance = Policy()

instance = Policy()
"""


@pytest.mark.parametrize(
    "path",
    [
        "own_policy:Policy",
        "own_policy.Policy",
        "own_policy:instance",
        "own_policy.instance",
        "own_policy:Holder.instance",
    ],
)
def test_policies_by_import_path(path: str, module: Callable[[str, str], str]) -> None:
    """A class or an object, by either form of import path, found in the folders that came with it."""
    folder = module("own_policy", TEXT)
    spec = EndpointSpec("e", None, ("GET",), TrafficPolicy(1, HALVES, custom=CustomPolicy(path, (folder,))))
    assert Chooser(spec).choose(call(), 0.0) == "b"
    assert sys.path.count(folder) == 1
    load_policy(CustomPolicy(path, (folder,)))
    assert sys.path.count(folder) == 1


def test_this_process_looks_in_its_own_folders_first(module: Callable[[str, str], str]) -> None:
    """Folders that came with a policy do not hide the modules that this process has (SA3)."""
    folder = module("json", "raise RuntimeError('not this one')")
    assert import_object("json:dumps", [folder]).__module__ == "json"
    assert sys.path[-1] == folder


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("", "is not an import path"),
        (":", "is not an import path"),
        ("module", "is not an import path"),
        ("module:", "is not an import path"),
        (":name", "is not an import path"),
        (".name", "is not an import path"),
        ("module.", "is not an import path"),
        ("no_such_module_anywhere:name", "no_such_module_anywhere"),
        ("no_such_package_anywhere.module:name", "no_such_package_anywhere"),
        ("json:no_such_name", "module 'json' has no 'no_such_name'"),
        ("json.no_such_name", "module 'json' has no 'no_such_name'"),
        ("json:decoder.Missing", "module 'json' has no 'decoder.Missing'"),
        ("json:.", "module 'json' has no"),
        (".json:dumps", ""),
        ("json..decoder:JSONDecoder", ""),
    ],
)
def test_import_paths_that_lead_nowhere(path: str, text: str) -> None:
    """A wrong path is an ImportError that shows what is wrong with it, whatever its form."""
    with pytest.raises(ImportError) as caught:
        import_object(path)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        (here("WrongMethod"), TypeError, "has no method choose"),
        (here("not_callable"), TypeError, "has no method choose"),
        (here("TakesTooLittle"), TypeError, "has no method choose"),
        (here("NeedsArguments"), TypeError, "model"),
        (here("Waits"), TypeError, "async method choose"),
        (here("call"), TypeError, "has no method choose"),
        ("json:decoder", TypeError, "has no method choose"),
        ("nothing", ImportError, "is not an import path"),
    ],
)
def test_load_policy_says_what_is_missing(path: str, error: type[Exception], text: str) -> None:
    """What is no policy is refused where the operator gives it, with the path and the method that it lacks (CL3)."""
    with pytest.raises(error, match=text):
        load_policy(CustomPolicy(path))
