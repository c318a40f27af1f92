"""The examples of Ray Serve 1.x on "Composing Multiple Models" and "Sync and Async Handles", each as its own program.

The page includes its example of the former from a file of its own; this is one to the same contract.
"""

from __future__ import annotations

from pathlib import Path

from tests.docs.programs import ENGINE, assert_succeeded, program, run_program

COMPOSED = """
import random

def model_one(request):
    print("model one was asked about", request.query_params.get("data"))
    return random.random()

def model_two(request):
    print("model two was asked about", request.query_params.get("data"))
    return request.query_params.get("data")

class ComposedModel:
    def __init__(self):
        client = serve.connect()
        self.model_one = client.get_handle("model_one")
        self.model_two = client.get_handle("model_two")

    async def __call__(self, starlette_request):
        data = await starlette_request.body()
        score = await self.model_one.remote(data=data)
        if score > 0.5:
            assert await self.model_two.remote(data=data) == data
            return {"model_used": 2, "score": score}
        return {"model_used": 1, "score": score}

client.create_backend("model_one", model_one)
client.create_endpoint("model_one", backend="model_one")
client.create_backend("model_two", model_two)
client.create_endpoint("model_two", backend="model_two")
client.create_backend("composed_backend", ComposedModel, config={"max_concurrent_queries": 10})
client.create_endpoint("composed", backend="composed_backend", route="/composed")
"""


def test_composition_of_models(tmp_path: Path) -> None:
    """The score of one model decides whether another one is asked, and the answer is JSON that says so (CO1, CO4)."""
    text = program(
        COMPOSED,
        """
        import httpx
        answers = [httpx.request("GET", client.http_address + "/composed", content=b"hey!").json() for _ in range(40)]
        assert {answer["model_used"] for answer in answers} == {1, 2}, answers
        assert all((answer["score"] > 0.5) == (answer["model_used"] == 2) for answer in answers), answers
        """,
    )
    ended = run_program(text, tmp_path)
    assert_succeeded(ended)
    if ENGINE == "local":  # Ray may show what a replica prints after the program has ended
        assert "model one was asked about b'hey!'" in ended.stderr


def test_both_kinds_of_handle(tmp_path: Path) -> None:
    """``sync`` toggles between the two kinds; an async one is awaited inside an event loop (HA1, EX12)."""
    text = program(
        """
        import asyncio
        client.create_backend("b", handle_request)
        client.create_endpoint("e", backend="b")
        by_default, sync = client.get_handle("e"), client.get_handle("e", sync=True)
        assert type(by_default) is type(sync)
        assert serve.get(by_default.remote()) == sync.remote().result()
        async def ask():
            handle = client.get_handle("e", sync=False)
            future = await handle.remote()
            return await future
        assert asyncio.run(ask()) == serve.get(sync.remote())
        """
    )
    assert_succeeded(run_program(text, tmp_path))
