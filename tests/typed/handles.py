"""What a type checker makes of handles and futures. Checked, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from typing_extensions import assert_type

import pointsman as serve
from pointsman.calling.future import Sending
from pointsman.handle import AsyncServeHandle, RayServeHandle, RayServeSyncHandle, ServeHandle

assert issubclass(ServeHandle, RayServeHandle)
assert issubclass(AsyncServeHandle, RayServeHandle)
assert RayServeSyncHandle is ServeHandle

client = serve.start()

sync = client.get_handle("e")
assert_type(sync, ServeHandle)
assert_type(client.get_handle("e", missing_ok=True, sync=True), ServeHandle)
assert_type(sync.options(shard_key="k"), ServeHandle)
assert_type(sync.options(stream=True).options(timeout_s=1.0), ServeHandle)
assert_type(sync.remote(b"body", key=1), "serve.ServeFuture[Any]")

future: serve.ServeFuture[int] = sync.remote(1)
assert_type(future.result(timeout=1.0), int)
assert_type(future.exception(), "BaseException | None")
assert_type(future.done(), bool)
assert_type(future.cancel(), bool)
assert_type(serve.get(future), int)
assert_type(serve.get([future, future], timeout=1.0), list[int])
assert_type(serve.wait([future], num_returns=1), "tuple[list[serve.ServeFuture[int]], list[serve.ServeFuture[int]]]")
assert_type(iter(sync.options(stream=True).remote()), Iterator[Any])
future.add_done_callback(lambda done: assert_type(done, "serve.ServeFuture[int]"))


async def asynchronous() -> None:
    handle = client.get_handle("e", sync=False)
    assert_type(handle, AsyncServeHandle)
    assert_type(handle.options(method_name="m"), AsyncServeHandle)
    assert_type(handle.remote(1), Sending)
    assert_type(await handle.remote(1), "serve.ServeFuture[Any]")
    awaited: serve.ServeFuture[str] = await handle.remote(1)
    assert_type(await awaited, str)
    assert_type(await future, int)
    chunks: AsyncIterator[Any] = handle.options(stream=True).remote().__aiter__()
    async for chunk in chunks:
        assert_type(chunk, Any)


# What must not pass: each of these has to be an error, or the comment on it is one.
sync.options(shard="k")  # type: ignore[call-arg]
sync.options("m")  # type: ignore[call-arg]
future.result("soon")  # type: ignore[arg-type]
serve.get(1)  # type: ignore[call-overload]
client.get_handle(1)  # type: ignore[call-overload]
