"""ported: what is said to those who write names of other servers that are not here."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import pointsman as serve
from pointsman import ported
from pointsman.client.keywords import explains_keywords
from pointsman.handle import AsyncServeHandle, ServeHandle
from pointsman.usercode.packing import inspect_code

NO_CREDENTIALS: Any = None


@pytest.mark.parametrize("name", ported.METHODS_OF_THE_CLIENT)
def test_functions_that_are_methods_of_the_client(name: str) -> None:
    """`serve.create_backend` is an error that says whose method it is, and it is one (DO2)."""
    assert hasattr(serve.Client, name)
    with pytest.raises(AttributeError, match=rf"client = serve.start\(\), client.{name}\(...\)$"):
        getattr(serve, name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("init", "client = serve.start()"),
        ("deployment", "client.deploy(name, Class, *init_args, config={...})"),
        ("batch", "@serve.accept_batch"),
        ("get_replica_context", "serve.get_current_backend_tag()"),
        ("LitAPI", "a class that loads in its constructor and answers in __call__"),
        ("LitServer", "client.deploy(name, Class, route='/predict')"),
        ("service", "without a base or decorator"),
        ("api", "annotate the parameter of __call__"),
        ("depends", "serve.connect().get_handle(name)"),
        ("mount_asgi_app", "serve.asgi(app)"),
    ],
)
def test_names_with_another_in_their_place(name: str, text: str) -> None:
    """`serve.deployment` is an error that says what takes its place (DO2)."""
    with pytest.raises(AttributeError, match=f"no attribute '{name}'; .*{re.escape(text)}"):
        getattr(serve, name)


def test_other_names_are_as_unknown_as_they_were() -> None:
    """`hasattr` is false, and a name of nobody's gets no advice (DO2)."""
    assert not any(hasattr(serve, name) for name in ("deployment", "nothing_of_the_kind", "__wrapped__"))
    with pytest.raises(AttributeError, match=r"no attribute 'nothing_of_the_kind'$"):
        serve.nothing_of_the_kind  # noqa: B018


@pytest.mark.parametrize("field", ported._FIELDS)
def test_fields_of_others(field: str) -> None:
    """`max_ongoing_requests` or `workers` is an error with the name of that field or argument here (DO2)."""
    with pytest.raises(ValueError, match=f"no field '{field}'; it is .* here$") as caught:
        serve.BackendConfig(**{field: 5})
    name = re.findall(r"\w+", str(caught.value).partition("; it is ")[2])[0]
    deploy = inspect.signature(serve.Client.deploy).parameters
    assert name in (serve.BackendConfig.model_fields if f"'{name}'" in str(caught.value) else deploy)


def test_fields_as_arguments() -> None:
    """`client.deploy(..., workers=2)` is an error with the name that is right here (DO2)."""

    @explains_keywords
    def deploy(name: str, config: object = None) -> None: ...

    wrong: Any = deploy
    with pytest.raises(TypeError, match="no keyword argument 'workers'; it is 'num_replicas' here"):
        wrong("tone", workers=2)
    with pytest.raises(TypeError, match="no keyword argument 'timeout'; it is request_timeout_s, which"):
        wrong("tone", timeout=20)


def test_the_request_is_not_the_body() -> None:
    """`request["text"]`, which elsewhere is of the body, is an error that says how the body is read (DO2)."""
    request = serve.Request.of(json={"text": "fine"})
    with pytest.raises(KeyError, match=r"request.json\(\)\['text'\]"):
        request["text"]
    assert request.json()["text"] == "fine"
    assert "text" not in request
    assert request.get("text") is None


@pytest.mark.parametrize("kind", [ServeHandle, AsyncServeHandle])
def test_methods_as_attributes_of_a_handle(kind: Any) -> None:
    """`handle.score.remote(...)` is an error that says how methods are called (DO2)."""
    handle = kind("model", NO_CREDENTIALS)
    with pytest.raises(AttributeError, match=r"'score'; a method is called by options\(method_name='score'\).remote"):
        handle.score  # noqa: B018
    assert not hasattr(handle, "__fspath__")


def test_a_path_in_place_of_code() -> None:
    """A string as a backend is an error that says how code is named (DO2)."""
    with pytest.raises(TypeError, match=r"given as serve.ImportedBackend\('shop.Model'\)$"):
        inspect_code("shop.Model", ())
