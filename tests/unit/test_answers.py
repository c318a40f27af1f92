"""replica.target and replica.answers: which answers are sent whole, and the heads of apps' answers."""

from __future__ import annotations

import asyncio
import tempfile
import types
from collections.abc import AsyncIterator, Awaitable, Generator, Iterator
from typing import Any

import pytest
from starlette.responses import FileResponse, PlainTextResponse, StreamingResponse

from pointsman.exceptions import UserCodeError
from pointsman.replica.answers import MAX_KNOWN, MAX_KNOWN_BYTES, app_head
from pointsman.replica.target import is_whole


class Asked(type):
    """A metaclass that is asked for what its classes do not have, as pydantic's."""

    asked = 0

    def __getattr__(cls, name: str) -> Any:
        Asked.asked += 1
        raise AttributeError(name)


class Model(metaclass=Asked):
    pass


class Later:
    def __await__(self) -> Generator[Any, None, int]:
        return (yield)


class Many:
    def __aiter__(self) -> AsyncIterator[int]:
        raise NotImplementedError


@types.coroutine
def old_coroutine() -> Generator[Any, None, int]:
    return (yield)


def generator() -> Iterator[int]:
    yield 1


def test_the_class_of_a_model_is_asked_once() -> None:
    """That a model is neither awaited nor iterated is found at its first answer, and not again: its class is asked by
    code in Python."""
    assert is_whole(Model(), "POST")
    asked = Asked.asked
    assert all(is_whole(Model(), "POST") for _ in range(10))
    assert Asked.asked == asked


@pytest.mark.parametrize("value", ["text", b"", {}, [], (), 1, 1.5, True, None, object(), {1}, PlainTextResponse("x")])
def test_whole_answers(value: Any) -> None:
    """What is neither awaited, iterated nor called is sent whole, each time."""
    assert is_whole(value, "POST")
    assert is_whole(value, "POST")


def test_answers_that_take_time() -> None:
    """Awaitables, iterators, files, and responses that stream take time, each time; so does a response of a class of
    which another one was whole."""
    awaited = old_coroutine()
    with tempfile.NamedTemporaryFile() as file:
        for value in (Later(), Many(), awaited, generator(), file, FileResponse(file.name), StreamingResponse([])):
            assert not is_whole(value, "POST")
            assert not is_whole(value, "POST")
    assert isinstance(awaited, Awaitable | types.GeneratorType)
    assert is_whole(PlainTextResponse("x"), "POST")
    assert not is_whole(PlainTextResponse("x", background=asyncio.sleep), "POST")  # type: ignore[arg-type]


HEAD = [(b"Content-Type", b"text/plain"), (b"content-length", b"2")]


def test_the_head_of_an_apps_answer() -> None:
    """Headers are sent in lower case; the length is told apart; `connection: close` stays. A second answer with the
    same ones gets the same, whatever form they are in (AP11)."""
    arrays = [(bytearray(name), memoryview(value)) for name, value in HEAD]
    for headers in (HEAD, tuple(HEAD), [list(pair) for pair in HEAD], iter(HEAD), arrays):
        assert app_head(headers) == ([(b"content-type", b"text/plain")], 2)
    assert app_head([(b"Connection", b"Close"), (b"content-length", b"x")]) == ([(b"connection", b"close")], None)
    for _ in range(2):
        with pytest.raises(UserCodeError, match="control character"):
            app_head([(b"x-a", b"a\r\nb")])


def test_heads_that_never_come_again_are_forgotten() -> None:
    """An app with a header that differs in each answer, or with large ones, does not fill the memory."""
    from pointsman.replica import answers

    for number in range(3 * MAX_KNOWN):
        app_head([(b"x-number", b"%d" % number)])
        assert len(answers._known_heads) <= MAX_KNOWN
    app_head(large := [(b"x-large", b"v" * MAX_KNOWN_BYTES)])
    assert tuple(large) not in answers._known_heads
