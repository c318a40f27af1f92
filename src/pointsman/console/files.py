"""The files of the page, read once: they are few, small, and part of the package."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from starlette.responses import PlainTextResponse, Response

from pointsman.console.problems import Problem

PAGE = Path(__file__).parent / "page"
TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
INDEX = "/index.html"


class _File:
    """The bytes of a file, also compressed, its media type, and what tells it from another version of it."""

    def __init__(self, data: bytes, kind: str) -> None:
        self.data = data
        self.small = gzip.compress(data, mtime=0)
        self.kind = kind
        self.tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'


class PageFiles:
    """Answers requests for files of the page.

    Args:
        folder: with the files; what is not in it when this is made is not served.
    """

    def __init__(self, folder: Path = PAGE) -> None:
        self._files = {
            f"/{path.relative_to(folder).as_posix()}": _File(path.read_bytes(), media_type(path))
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        }

    def answer(self, method: str, raw_path: str, asked: Mapping[str, str]) -> Response:
        """The file of a path, ``/`` being the page itself; and ``/healthz``. A browser asks each time whether it has
        changed.

        Args:
            asked: headers of the request.

        Raises:
            Problem: 404, 405.
        """
        path = unquote(raw_path)
        if path not in ("/", "/healthz") and path not in self._files:
            raise Problem(404, f"there is no {raw_path:.200}; the page is at /")
        if method not in ("GET", "HEAD"):
            raise Problem(405, f"{method} is not for {raw_path:.200}; it has GET", {"allow": "GET, HEAD"})
        if path == "/healthz":
            return PlainTextResponse("ok\n")
        if path == "/" and INDEX not in self._files:
            return PlainTextResponse("this console has no page; its API is at /api/v1\n", 404)
        file = self._files[INDEX if path == "/" else path]
        headers = {"vary": "accept-encoding", "etag": file.tag, "cache-control": "no-cache"}
        if asked.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        if "gzip" not in asked.get("accept-encoding", ""):
            return Response(file.data, headers=headers, media_type=file.kind)
        return Response(file.small, headers={**headers, "content-encoding": "gzip"}, media_type=file.kind)


def media_type(path: Path) -> str:
    """The media type of a file, whatever this machine's table says of the usual ones."""
    return TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
