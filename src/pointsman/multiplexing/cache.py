"""Which models are loaded, which are loaded next, and which make room. Pure: time is an argument, and what is to be
done is returned.

    want -> (AskSize -> sized) -> Load -> loaded -> Ready ... release -> Unload -> unloaded

A model is *held* once it is loaded, *in use* while a call has it, and *idle* otherwise. Room counts models that are
held, that are being loaded, and that are being unloaded: a model takes its memory until the end of that. Idle ones make
room, the one first that was not used for the longest time. Models that are wanted come in the order in which they were,
but one that does not fit, since too many are in use, does not keep those behind it from loading.

A load that has failed is not tried again for a second, then for two, up to half a minute; meanwhile whoever wants that
model gets the same error.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar

from pointsman.exceptions import ServeException

FIRST_PAUSE_S = 1.0
LAST_PAUSE_S = 30.0
SLOW_UNLOAD_S = 10.0
"""The room of an unload that takes longer is not waited for any more: another idle model makes room."""
MOST_FAILURES = 200
"""How many failed loads are remembered. Callers choose ids, and could choose ever new ones."""

W = TypeVar("W")


class Cause(NamedTuple):
    """Why a model is not there. The exception is raised for each that wants the model, and each time with the same
    traceback, which would grow otherwise."""

    error: BaseException
    traceback: TracebackType | None = None

    @classmethod
    def of(cls, error: BaseException) -> Cause:
        """The cause that user code has raised. One that would end an event loop, such as ``SystemExit``, is wrapped."""
        if not isinstance(error, Exception) or isinstance(error, StopIteration):
            wrapped = RuntimeError(f"the loader has raised {type(error).__name__}: {error}")
            wrapped.__cause__ = error
            return cls(wrapped, error.__traceback__)
        return cls(error, error.__traceback__)

    def again(self) -> BaseException:
        """The exception, to be raised once more."""
        return self.error.with_traceback(self.traceback)


class AskSize(NamedTuple):
    """Find out the size of a model; :meth:`ModelCache.sized` or :meth:`ModelCache.failed` gets the outcome."""

    id: str


class Load(NamedTuple):
    """Load a model; :meth:`ModelCache.loaded` or :meth:`ModelCache.failed` gets the outcome."""

    id: str


class Unload(NamedTuple):
    """Unload a model, and then call :meth:`ModelCache.unloaded`."""

    id: str


@dataclass(frozen=True, slots=True)  # Python 3.10 has no generic NamedTuple
class Ready(Generic[W]):
    """The model is there for these, each of which has it in use until :meth:`ModelCache.release`."""

    id: str
    waiters: tuple[W, ...]


@dataclass(frozen=True, slots=True)
class Failed(Generic[W]):
    """These do not get the model."""

    id: str
    waiters: tuple[W, ...]
    cause: Cause


Action = AskSize | Load | Unload | Ready[W] | Failed[W]


class CacheClosedError(ServeException):
    """No models are loaded any more."""


CLOSED = "no models are loaded any more, since the replica ends"


class ModelTooLargeError(ServeException):
    """A model is larger than all models of a replica together may be."""


class Model(NamedTuple):
    """A model that is held. ``size`` is 0 where nothing says how large it is."""

    id: str
    size: int
    in_use: int
    idle_s: float


class CacheStatistics(NamedTuple):
    held: int
    loading: int
    waiting: int
    unloading: int


class _Wanted(Generic[W]):
    """A model that is not held yet."""

    __slots__ = ("loading", "size", "waiters")

    def __init__(self, size: int | None) -> None:
        self.size = size  # None while it is asked for
        self.loading = False
        self.waiters: dict[W, None] = {}


class _Held:
    __slots__ = ("idle_since", "in_use", "size")

    def __init__(self, size: int, in_use: int, now: float) -> None:
        self.size = size
        self.in_use = in_use
        self.idle_since = now


class _Failure(NamedTuple):
    cause: Cause
    pause_s: float
    until: float


class ModelCache(Generic[W]):
    """The models of one replica.

    Args:
        max_models: how many there may be; None for any number.
        max_bytes: what they may take; None for any size.
        sized: whether the size of a model is asked for.

    ``W`` is the type of who waits for a model; two that are equal are the same.
    """

    def __init__(self, *, max_models: int | None = None, max_bytes: int | None = None, sized: bool = False) -> None:
        self._max_models = max_models
        self._max_bytes = max_bytes
        self._sized = sized
        self._wanted: dict[str, _Wanted[W]] = {}
        self._held: dict[str, _Held] = {}
        self._idle: dict[str, None] = {}  # those held that nobody uses, the one first that was used longest ago
        self._unloading: dict[str, tuple[int, float]] = {}  # their sizes, and since when
        self._waiting: dict[str, None] = {}  # those wanted whose size is known, and whose load has not begun
        self._loading = 0
        self._taken = 0  # bytes of what is held, loaded or unloaded
        self._now = 0.0
        self._failures: dict[str, _Failure] = {}
        self._closed = False

    # What callers do

    def take(self, model_id: str) -> bool:
        """Use a model that is held, until :meth:`release`; False if it is not."""
        # hot: each call with a model passes here
        held = self._held.get(model_id)
        if held is None:
            return False
        if not held.in_use:
            del self._idle[model_id]
        held.in_use += 1
        return True

    def want(self, model_id: str, waiter: W, now: float) -> list[Action[W]]:
        """Have a model for a waiter: at once, or by a later :class:`Ready` or :class:`Failed`."""
        self._now = now
        if self.take(model_id):
            return [Ready(model_id, (waiter,))]
        if self._closed:
            return [Failed(model_id, (waiter,), Cause(CacheClosedError(CLOSED)))]
        failure = self._failures.get(model_id)
        if failure is not None and now < failure.until:
            return [Failed(model_id, (waiter,), failure.cause)]
        wanted = self._wanted.get(model_id)
        if wanted is not None:
            wanted.waiters[waiter] = None
            return self._load_what_fits() if self._unloading and model_id in self._waiting else []
        wanted = self._wanted[model_id] = _Wanted(None if self._sized else 0)
        wanted.waiters[waiter] = None
        if self._sized:
            return [AskSize(model_id)]
        self._waiting[model_id] = None
        return self._load_what_fits()

    def give_up(self, model_id: str, waiter: W) -> list[Action[W]] | None:
        """A waiter does not wait any more. None if it does not: then it has the model, or was told that it does not get
        it."""
        wanted = self._wanted.get(model_id)
        if wanted is None or waiter not in wanted.waiters:
            return None
        del wanted.waiters[waiter]
        if wanted.waiters or wanted.loading or wanted.size is None:
            return []
        del self._wanted[model_id], self._waiting[model_id]
        return self._load_what_fits()

    def release(self, model_id: str, now: float) -> list[Action[W]]:
        """A user of a model has ended."""
        # hot: each call with a model passes here
        held = self._held[model_id]
        held.in_use -= 1
        if held.in_use:
            return []
        held.idle_since = self._now = now
        self._idle[model_id] = None
        if self._closed:
            return [self._unload(model_id)]
        return self._load_what_fits() if self._waiting else []

    def close(self) -> list[Action[W]]:
        """Want nothing any more, and unload what is held: at once what is idle, the rest after its last use."""
        self._closed = True
        actions: list[Action[W]] = [self._unload(model_id) for model_id in list(self._idle)]
        for model_id in self._waiting:
            waiters = tuple(self._wanted.pop(model_id).waiters)
            actions.append(Failed(model_id, waiters, Cause(CacheClosedError(CLOSED))))
        self._waiting.clear()
        return actions

    # What has become of actions

    def sized(self, model_id: str, size: int, now: float) -> list[Action[W]]:
        """The size of a model is known."""
        wanted = self._wanted[model_id]
        if self._closed:
            del self._wanted[model_id]
            return [Failed(model_id, tuple(wanted.waiters), Cause(CacheClosedError(CLOSED)))]
        if not wanted.waiters:
            del self._wanted[model_id]
            return []
        if self._max_bytes is not None and size > self._max_bytes:
            text = f"model {model_id!r} takes {size:,} bytes, and all models of a replica may take {self._max_bytes:,}"
            return self.failed(model_id, Cause(ModelTooLargeError(text)), now)
        wanted.size = size
        self._waiting[model_id] = None
        return self._load_what_fits()

    def loaded(self, model_id: str, now: float) -> list[Action[W]]:
        """A model is there."""
        wanted = self._wanted.pop(model_id)
        self._loading -= 1
        self._failures.pop(model_id, None)
        waiters = tuple(wanted.waiters)
        self._held[model_id] = _Held(wanted.size or 0, len(waiters), now)
        if waiters:
            return [Ready(model_id, waiters)]
        self._idle[model_id] = None
        return [self._unload(model_id)] if self._closed else self._load_what_fits()

    def failed(self, model_id: str, cause: Cause, now: float) -> list[Action[W]]:
        """A size could not be found out, or a model not loaded."""
        wanted = self._wanted.pop(model_id)
        if wanted.loading:
            self._loading -= 1
            self._taken -= wanted.size or 0
        before = self._failures.pop(model_id, None)
        pause_s = FIRST_PAUSE_S if before is None else min(LAST_PAUSE_S, 2 * before.pause_s)
        self._failures[model_id] = _Failure(cause, pause_s, now + pause_s)
        if len(self._failures) > MOST_FAILURES:
            del self._failures[next(iter(self._failures))]
        actions: list[Action[W]] = [Failed(model_id, tuple(wanted.waiters), cause)] if wanted.waiters else []
        return actions if self._closed else actions + self._load_what_fits()

    def unloaded(self, model_id: str) -> list[Action[W]]:
        """A model has been unloaded."""
        self._taken -= self._unloading.pop(model_id)[0]
        return [] if self._closed else self._load_what_fits()

    # Decisions

    def _load_what_fits(self) -> list[Action[W]]:
        """Load what there is room for, and have idle models make room for what there could be."""
        actions: list[Action[W]] = []
        room, room_bytes = self._room()
        going = [size for size, since in self._unloading.values() if self._now - since < SLOW_UNLOAD_S]
        later, later_bytes = room + len(going), room_bytes + sum(going)
        # hot: thousands may wait, and each end of a call comes here
        for model_id in list(self._waiting) if later >= 1 or self._idle else ():
            wanted = self._wanted[model_id]
            size = wanted.size or 0
            victims, later_if, bytes_if = self._victims(later, later_bytes, size)
            if later_if < 1:
                break  # so many are in use that nobody else finds a place
            if bytes_if < size:
                continue  # they are too large; a smaller one may fit
            actions += [self._unload(victim) for victim in victims]
            if room >= 1 and room_bytes >= size and model_id not in self._unloading:
                wanted.loading = True
                del self._waiting[model_id]
                self._loading += 1
                self._taken += size
                actions.append(Load(model_id))
            room, room_bytes = room - 1, room_bytes - size
            later, later_bytes = later_if - 1, bytes_if - size
        return actions

    def _victims(self, room: float, room_bytes: float, size: int) -> tuple[list[str], float, float]:
        """Idle models that make room for one of this size, as few as do; and the room there is then."""
        victims = []
        for model_id in self._idle:
            if room >= 1 and room_bytes >= size:
                break
            victims.append(model_id)
            room, room_bytes = room + 1, room_bytes + self._held[model_id].size
        return victims, room, room_bytes

    def _room(self) -> tuple[float, float]:
        """How many more models there may be, and what they may take."""
        room = room_bytes = float("inf")
        if self._max_models is not None:
            room = self._max_models - len(self._held) - len(self._unloading) - self._loading
        if self._max_bytes is not None:
            room_bytes = self._max_bytes - self._taken
        return room, room_bytes

    def _unload(self, model_id: str) -> Unload:
        del self._idle[model_id]
        self._unloading[model_id] = self._held.pop(model_id).size, self._now
        return Unload(model_id)

    # What there is

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held, loaded or unloaded."""
        return not (self._held or self._wanted or self._unloading)

    @property
    def room(self) -> int | None:
        """How many more models could be loaded without another making room; None for any number."""
        if self._max_models is None:
            return None
        return max(0, self._max_models - len(self._held) - len(self._unloading) - len(self._wanted))

    def waiting(self, model_id: str) -> int | None:
        """How many wait for a model; None if it is not about to be loaded."""
        wanted = self._wanted.get(model_id)
        return None if wanted is None else len(wanted.waiters)

    def holds(self, model_id: str) -> bool:
        return model_id in self._held

    def is_loading(self, model_id: str) -> bool:
        wanted = self._wanted.get(model_id)
        return wanted is not None and (wanted.loading or wanted.size is None)

    def ids(self) -> list[str]:
        """Models that are held or wanted."""
        return [*self._held, *self._wanted]

    def models(self, now: float) -> list[Model]:
        """Those that are held."""
        return [
            Model(model_id, held.size, held.in_use, 0.0 if held.in_use else max(0.0, now - held.idle_since))
            for model_id, held in self._held.items()
        ]

    def statistics(self) -> CacheStatistics:
        others = len(self._wanted) - self._loading
        return CacheStatistics(len(self._held), self._loading, others, len(self._unloading))

    def validate(self) -> None:
        """Raise AssertionError if the state is inconsistent. Called by tests."""
        loading = [wanted.size or 0 for wanted in self._wanted.values() if wanted.loading]
        held, going = [held.size for held in self._held.values()], [size for size, _ in self._unloading.values()]
        assert self._loading == len(loading), "loads were not counted"
        assert self._taken == sum(held) + sum(going) + sum(loading), "bytes were not counted"
        assert set(self._waiting) == {
            name for name, wanted in self._wanted.items() if wanted.size is not None and not wanted.loading
        }, "those that wait differ"
        room, room_bytes = self._room()
        assert room >= 0, "more models than there may be"
        assert room_bytes >= 0, "models take more than they may"
        assert set(self._idle) == {name for name, held in self._held.items() if not held.in_use}, "idle ones differ"
        assert not set(self._held) & set(self._wanted), "a model is held and wanted"
        assert not set(self._held) & set(self._unloading), "a model is held and unloaded"
        assert all(wanted.waiters or wanted.loading or wanted.size is None for wanted in self._wanted.values())
        assert not any(self._wanted[name].loading for name in self._unloading if name in self._wanted)
        since = [self._held[name].idle_since for name in self._idle]
        assert since == sorted(since), "idle ones are out of order"
