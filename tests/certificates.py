"""Certificates as a cluster with TLS has them, made by openssl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HOST = "127.0.0.2"
VARIABLES = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made by openssl")


def make_certificate(folder: Path, *, host: str = HOST) -> dict[str, str]:
    """A certificate that is its own authority, as Ray's variables name it."""
    folder.mkdir(exist_ok=True)
    certificate, key = str(folder / "node.crt"), str(folder / "node.key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=node", "-addext", f"subjectAltName=IP:{host}", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return {"RAY_USE_TLS": "1", **dict(zip(VARIABLES, (certificate, key, certificate), strict=True))}
