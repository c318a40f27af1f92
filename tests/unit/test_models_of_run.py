"""The dict that `serve.run` takes, and the main thread of `--local`."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import pointsman as serve
from pointsman.running.local import MainThread
from pointsman.running.serving import _named


class Model:
    def __init__(self, word: str = "one") -> None:
        self.word = word

    def __call__(self, request: serve.Request) -> str:
        return self.word


def hello(request: serve.Request) -> str:
    return "hello"


async def app(scope: Any, receive: Any, send: Any) -> None: ...


def test_each_model_has_a_name_of_its_own():
    """A model is named after its class or function, the second of a kind with a number, an app after its route
    (RN1)."""
    named = _named({"/a": Model, "/b": (Model, "two"), "/c": hello, "/shop/x": app, "/": serve.asgi(app)})
    assert {route: (one.name, one.args) for route, one in named.items()} == {
        "/a": ("Model", ()),
        "/b": ("Model-2", ("two",)),
        "/c": ("hello", ()),
        "/shop/x": ("shop/x", ()),
        "/": ("app", ()),
    }


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ({}, "takes a dict"),
        ([Model], "takes a dict"),
        ({"/m": ()}, "a backend is"),
        ({"/m": 5}, "a backend is"),
        ({"/m": (hello, 1)}, "init args"),
        ({"m": Model}, "route must be"),
        ({5: Model}, "route must be"),
    ],
)
def test_what_is_no_model_is_refused_before_anything_starts(models: Any, told: str):
    """A dict with something else in it is refused with one sentence (RN1)."""
    with pytest.raises((TypeError, ValueError), match=told):
        serve.run(models)


def test_the_main_thread_runs_what_it_is_given():
    """Sync code under --local runs on the thread that has started it, until the server stops (RN1)."""
    here, ran = MainThread(), []
    taken = here.take(lambda: ran.append(threading.current_thread()))
    beside = threading.Thread(target=lambda: (taken.start(), taken.join()))
    beside.start()
    here.serve()
    beside.join()
    assert ran == [threading.current_thread()]


def test_a_server_that_cannot_begin_leaves_the_main_thread():
    """An error before user code is there ends --local at once (RN1)."""
    here = MainThread()
    here.cancel()
    here.serve()
