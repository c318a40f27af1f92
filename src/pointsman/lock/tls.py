"""Certificates of the HTTP port, read and checked."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import Any

import msgspec

from pointsman.arguments import nearest
from pointsman.lock.keyfile import Signature, signature_of

_FILES = {
    "cert": b"-----BEGIN CERTIFICATE-----",
    "key": b"PRIVATE KEY-----",
    "client_ca": b"-----BEGIN CERTIFICATE-----",
}
MAX_PEM = 16 * 1024 * 1024


class TLSOptions(dict[str, Any]):
    """The option ``tls`` of HTTPOptions. Shows no password."""

    def __repr__(self) -> str:
        return repr({name: "..." if name == "password" else value for name, value in self.items()})


class TLSSpec(msgspec.Struct, frozen=True):
    """Paths of files in PEM form.

    Attributes:
        cert: the server's certificate, and those between it and the authority.
        key: its private key; empty where that is in the same file.
        password: of the key; empty for none.
        client_ca: the authorities whose certificates clients must show; empty to ask for none.
    """

    cert: str
    key: str = ""
    password: str = ""
    client_ca: str = ""

    def __repr__(self) -> str:
        return f"TLSSpec(cert={self.cert!r})"

    @property
    def files(self) -> dict[str, str]:
        named = {"cert": self.cert, "key": self.key or self.cert, "client_ca": self.client_ca}
        return {what: path for what, path in named.items() if path}

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """Others once a file was written or replaced."""
        return tuple(signature_of(path) for path in self.files.values())


def check_tls(given: Any) -> TLSOptions | None:
    """Check what a user gave, but not the files; None is for plain HTTP.

    Raises:
        ValueError: not a dict with ``cert``, or one with something else. No password is in the text.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise ValueError("it must be a dict: {'cert': path, 'key': path}")
    known = TLSSpec.__struct_fields__
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"it has no field {name!r}{nearest(str(name), known)}")
        allowed = (str, type(None)) if name == "password" else (str, os.PathLike, type(None))
        if not isinstance(value, allowed):
            raise ValueError(f"its {name} must be a str, not a {type(value).__name__}")
    if not given.get("cert"):
        raise ValueError("its cert, the path of a certificate, is missing")
    return TLSOptions(given)


def tls_spec(options: Mapping[str, Any]) -> TLSSpec:
    """The kept form of what :func:`check_tls` has returned, with absolute paths."""
    paths = {name: os.path.abspath(options[name]) for name in _FILES if options.get(name)}
    return TLSSpec(**paths, password=options.get("password") or "")


def load_context(spec: TLSSpec) -> ssl.SSLContext:
    """A context of the files as they are now: TLS 1.2 and later.

    Raises:
        ValueError: a file cannot be read, or does not hold what it should; names it.
    """
    for what, path in spec.files.items():
        _check_pem(what, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    key = spec.files["key"]
    try:
        context.load_cert_chain(spec.cert, key, password=lambda: spec.password)  # without one, OpenSSL asks a terminal
    except ssl.SSLError as error:
        raise ValueError(_reason(spec, key, error)) from None
    except OSError as error:  # it has gone since it was looked at
        raise ValueError(
            f"cert file {spec.cert!r} or key file {key!r} of tls cannot be read: {error.strerror}"
        ) from None
    except ValueError as error:  # OpenSSL takes no longer one
        raise ValueError(f"the password of key file {key!r} of tls cannot be used: {error}") from None
    if spec.client_ca:
        try:
            context.load_verify_locations(cafile=spec.client_ca)
        except ssl.SSLError as error:
            raise ValueError(f"client_ca file {spec.client_ca!r} of tls holds no certificate: {error.reason}") from None
        except OSError as error:
            raise ValueError(f"client_ca file {spec.client_ca!r} of tls cannot be read: {error.strerror}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check_pem(what: str, path: str) -> None:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_PEM)
    except OSError as error:
        raise ValueError(f"{what} file {path!r} of tls cannot be read: {error.strerror}") from None
    if _FILES[what] not in content:
        wanted = "private key" if what == "key" else "certificate"
        raise ValueError(f"{what} file {path!r} of tls holds no {wanted} in PEM form")


def _reason(spec: TLSSpec, key: str, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"key file {key!r} of tls does not belong to cert file {spec.cert!r}"
    try:
        with open(key, "rb") as file:
            encrypted = b"ENCRYPTED" in file.read(MAX_PEM)
    except OSError:
        encrypted = False
    if encrypted:
        missing = "wrong" if spec.password else "missing"
        return f"key file {key!r} of tls is encrypted, and the password is {missing}"
    return f"cert file {spec.cert!r} with key file {key!r} of tls cannot be used: {error.reason or 'bad PEM data'}"


class RenewedContext(ssl.SSLContext):
    """A context that a server listens with for good, and whose certificates can be replaced.

    New connections use the newest context; those that are open keep theirs. A context is replaced as a whole: one that
    loaded new files itself could be left with a certificate and another one's key.
    """

    current: ssl.SSLContext

    def __new__(cls) -> RenewedContext:
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        return self.current.wrap_bio(*args, **options)
