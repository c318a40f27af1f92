"""Forms for ``def`` callables: Starlette's, with files whose methods return values instead of coroutines.

Called by :meth:`pointsman.request.Request.form`. Starlette is imported only when a form is parsed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.datastructures import FormData


def parse_form(parse: Callable[[], Coroutine[Any, Any, FormData]]) -> FormData:
    """Run a parser of Starlette and return its form with sync methods. Raises what the parser raises."""
    form = _completed(parse)
    form_class, file_class = _classes()
    fields = [(name, file_class(value) if hasattr(value, "file") else value) for name, value in form.multi_items()]
    sync_form: FormData = form_class(fields)
    return sync_form


def _completed(parse: Callable[[], Coroutine[Any, Any, FormData]]) -> FormData:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(parse)
    return _completed_elsewhere(parse)  # a loop runs on this thread, as in `bucket_by`


def _run(parse: Callable[[], Coroutine[Any, Any, FormData]]) -> FormData:
    """Like ``asyncio.run``, but keeps the event loop that user code has set for this thread."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(parse())
    finally:
        try:
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


def _completed_elsewhere(parse: Callable[[], Coroutine[Any, Any, FormData]]) -> FormData:
    found: list[FormData] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            found.append(_run(parse))
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            errors.append(error)

    thread = threading.Thread(target=run, name="pointsman-form")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return found[0]


@cache
def _classes() -> tuple[Any, Any]:
    """The classes of forms and files. Made on first use, so that importing this module does not import Starlette."""
    from starlette.datastructures import FormData, UploadFile

    class SyncUploadFile(UploadFile):
        """An uploaded file: ``filename``, ``content_type``, ``size``, ``headers``, ``file``, and methods that return
        values."""

        def __init__(self, upload: UploadFile) -> None:
            super().__init__(upload.file, size=upload.size, filename=upload.filename, headers=upload.headers)

        def read(self, size: int = -1) -> bytes:  # type: ignore[override]
            """The next ``size`` bytes; all that is left by default."""
            return self.file.read(size)

        def seek(self, offset: int) -> None:  # type: ignore[override]
            self.file.seek(offset)

        def write(self, data: bytes) -> None:  # type: ignore[override]
            if self.size is not None:
                self.size += len(data)
            self.file.write(data)

        def close(self) -> None:  # type: ignore[override]
            self.file.close()

    class SyncFormData(FormData):
        """A form: a dict of many values, and a context manager that closes its files."""

        def close(self) -> None:  # type: ignore[override]
            for _, value in self.multi_items():
                if isinstance(value, UploadFile):
                    value.file.close()

        def __enter__(self) -> SyncFormData:
            return self

        def __exit__(self, *error: object) -> None:
            self.close()

    return SyncFormData, SyncUploadFile
