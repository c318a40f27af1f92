"""Forms for ``def`` callables: Starlette's, with files whose methods return values instead of coroutines; and the files
that typed callables get.

Called by :meth:`pointsman.request.Request.form`. Starlette is imported only when a form is parsed.
"""

from __future__ import annotations

import asyncio
import io
import json as jsons
import os
import secrets
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

if TYPE_CHECKING:
    from starlette.datastructures import FormData


class File:
    """A file that a client uploads: what a parameter with this annotation gets, in ``def`` and ``async def`` alike. It
    is whole in memory, so that nothing of it is awaited.

    Args:
        data: its content.
        filename: as the client gave it; never a path to write to.
        content_type: as the client gave it.

    Attributes:
        file: the content as a file object, for libraries that read one.
    """

    def __init__(self, data: bytes = b"", filename: str = "", content_type: str = "") -> None:
        self.data = data
        self.filename = filename
        self.content_type = content_type
        self.file = io.BytesIO(data)

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return len(self.data)

    def read(self, size: int = -1) -> bytes:
        """The next ``size`` bytes; all that is left by default.

        Args:
            size: how many bytes at most; all that is left by default.
        """
        return self.file.read(size)

    def seek(self, offset: int) -> int:
        """Go to a place in the file, in bytes from its beginning.

        Args:
            offset: the place, in bytes from the beginning.

        Returns:
            The place.
        """
        return self.file.seek(offset)

    def __repr__(self) -> str:
        return f"<File {self.filename!r}, {self.size} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.data, self.filename, self.content_type)


Files = Mapping[str, Any] | Sequence[tuple[str, Any]]


def encode_body(
    *, json: Any = None, content: bytes | str | None = None, data: Any = None, files: Files | None = None
) -> tuple[bytes, str]:
    """The body of a request, and its content type; empty for none."""
    if files is not None:
        return encode_form(data or {}, files)
    if data is not None:
        return encode_query(data).encode(), "application/x-www-form-urlencoded"
    if content is not None:
        return content.encode() if isinstance(content, str) else bytes(content), ""
    return (b"", "") if json is None else (jsons.dumps(json).encode(), "application/json")


def encode_form(fields: Mapping[str, Any], files: Files) -> tuple[bytes, str]:
    """A multipart form, and its content type.

    Args:
        fields: values that are no files; a list has several of one name.
        files: by field, as httpx and requests take them: bytes, text, a :class:`File` or a file object, or a tuple of
            file name and content, which may have the content type behind.
    """
    boundary = secrets.token_hex(16)
    parts: list[bytes] = []
    for name, value in fields.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            content = bytes(one) if isinstance(one, (bytes, bytearray)) else _as_text(one).encode()
            parts.append(f'Content-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n'.encode() + content + b"\r\n")
    for name, given in files.items() if isinstance(files, Mapping) else files:
        file = as_file(given, name)
        head = f'Content-Disposition: form-data; name="{_quoted(name)}"; filename="{_quoted(file.filename)}"\r\n'
        head += f"Content-Type: {file.content_type or 'application/octet-stream'}\r\n\r\n"
        parts.append(head.encode() + file.data + b"\r\n")
    between = f"--{boundary}\r\n".encode()
    body = b"".join([between + part for part in parts]) + f"--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


def _quoted(name: str) -> str:
    """A name as browsers and httpx write it."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def encode_query(values: Mapping[str, Any] | None) -> str:
    """Values as in a query string; a list has several of one name."""
    pairs = []
    for name, value in (values or {}).items():
        several = value if isinstance(value, (list, tuple)) else [value]
        pairs += [(name, one if isinstance(one, bytes) else _as_text(one)) for one in several]
    return urlencode(pairs)


def _as_text(value: Any) -> str:
    """A value as httpx writes it."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_file(given: Any, name: str) -> File:
    """A file, in one of the ways in which :func:`encode_form` takes one; ``name`` is that of a file that has none."""
    if isinstance(given, File):
        return given
    filename, content, kind = name, given, ""
    if isinstance(given, tuple):
        filename, content, *rest = given
        kind = rest[0] if rest else ""
    elif hasattr(given, "read"):
        filename = os.path.basename(str(getattr(given, "name", name)))
    content = content.read() if hasattr(content, "read") else content
    return File(content.encode() if isinstance(content, str) else bytes(content), filename or name, kind)


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
