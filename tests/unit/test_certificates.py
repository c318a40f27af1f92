"""lock.tls: certificates are checked when an instance starts, and what is wrong with them is said in one sentence."""

from __future__ import annotations

import os
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pointsman.config import HTTPOptions
from pointsman.lock.tls import RenewedContext, TLSOptions, TLSSpec, load_context, tls_spec
from tests.certificates import VARIABLES, make_certificate, needs_openssl
from tests.unit.sentences import sentence

pytestmark = needs_openssl

PASSWORD = "pass-word-of-the-key"


class Pair:
    """A certificate and its key."""

    def __init__(self, folder: Path) -> None:
        made = make_certificate(folder)
        self.cert, self.key = made[VARIABLES[0]], made[VARIABLES[1]]
        self.encrypted = str(folder / "encrypted.key")
        command = ["openssl", "ec", "-in", self.key, "-aes256", "-passout", f"pass:{PASSWORD}", "-out", self.encrypted]
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("other"))


def spec(**given: str) -> TLSSpec:
    options = HTTPOptions(tls=given).tls
    assert isinstance(options, TLSOptions)
    return tls_spec(options)


def test_good_files(pair: Pair, tmp_path: Path) -> None:
    """A certificate and its key, in two files or one, with a password or none, make a server of TLS 1.2 and later
    (ED1)."""
    both = tmp_path / "both.pem"
    both.write_text(Path(pair.key).read_text() + Path(pair.cert).read_text())
    for tls in (
        spec(cert=pair.cert, key=pair.key),
        spec(cert=str(both)),
        spec(cert=pair.cert, key=pair.encrypted, password=PASSWORD),
    ):
        context = load_context(tls)
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
        assert context.verify_mode == ssl.CERT_NONE
    assert load_context(spec(cert=pair.cert, key=pair.key, client_ca=pair.cert)).verify_mode == ssl.CERT_REQUIRED


def test_paths_hold_in_other_processes(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may be relative, and the servers find the file (ED1)."""
    monkeypatch.chdir(Path(pair.cert).parent)
    assert spec(cert=Path(pair.cert).name, key=Path(pair.key).name) == TLSSpec(pair.cert, pair.key)


def test_bad_files(pair: Pair, other: Pair, tmp_path: Path) -> None:
    """What is wrong with a file is said with its name, and without the password; nobody is asked for one (ED1)."""
    text, unreadable = tmp_path / "text", tmp_path / "folder"
    text.write_text("no PEM")
    unreadable.mkdir()
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for given, words in (
        ({"cert": "/no/such", "key": pair.key}, ["cert", "/no/such", "No such file"]),
        ({"cert": pair.cert, "key": "/no/such"}, ["key", "/no/such"]),
        ({"cert": pair.cert, "key": pair.key, "client_ca": "/no/such"}, ["client_ca", "/no/such"]),
        ({"cert": str(unreadable), "key": pair.key}, ["cert", str(unreadable)]),
        ({"cert": str(text), "key": pair.key}, ["cert", str(text), "no certificate"]),
        ({"cert": pair.cert, "key": str(text)}, ["key", str(text), "no private key"]),
        ({"cert": pair.cert}, ["key", pair.cert, "no private key"]),
        ({"cert": pair.cert, "key": other.key}, ["key", other.key, "does not belong", pair.cert]),
        ({"cert": str(broken), "key": pair.key}, ["cert", str(broken)]),
        ({"cert": pair.cert, "key": pair.key, "client_ca": str(broken)}, ["client_ca", str(broken)]),
        ({"cert": pair.cert, "key": pair.encrypted}, ["key", pair.encrypted, "password is missing"]),
        ({"cert": pair.cert, "key": pair.encrypted, "password": f"{PASSWORD}x"}, ["password is wrong"]),
        ({"cert": pair.cert, "key": pair.encrypted, "password": PASSWORD * 100}, ["password", pair.encrypted]),
    ):
        with pytest.raises(ValueError) as caught:
            load_context(spec(**given))
        assert PASSWORD not in sentence(caught.value, *words)


@pytest.mark.parametrize("method", ["load_cert_chain", "load_verify_locations"])
def test_a_file_that_goes_while_it_is_read(pair: Pair, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """A file that is removed between two looks at it is an error like one that was never there (ED1)."""

    def gone(*args: Any, **options: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(ssl.SSLContext, method, gone)
    with pytest.raises(ValueError) as caught:
        load_context(spec(cert=pair.cert, key=pair.key, client_ca=pair.cert))
    sentence(caught.value, pair.cert, "No such file")


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("cert.pem", "dict"),
        ({}, "cert"),
        ({"key": "k", "password": PASSWORD}, "cert"),
        ({"certs": "c", "password": PASSWORD}, "'cert'"),
        ({"cert": 5}, "int"),
        ({"cert": "c", "password": PASSWORD.encode()}, "bytes"),
        ({"cert": "c", "key": True, "password": PASSWORD}, "bool"),
    ],
)
def test_bad_options(given: Any, word: str) -> None:
    """What is no such option is refused, and the password is not shown (ED1)."""
    with pytest.raises(ValueError) as caught:
        HTTPOptions(tls=given)
    assert PASSWORD not in sentence(caught.value, "tls", word)


def test_a_password_is_not_shown() -> None:
    """What is printed of options and of what is handed over has no password (ED1)."""
    options = HTTPOptions(tls={"cert": "c", "password": PASSWORD})
    for shown in (options, options.tls, tls_spec(options.tls)):
        assert PASSWORD not in repr(shown)
        assert PASSWORD not in str(shown)
    assert options.tls["password"] == PASSWORD


def test_a_context_is_replaced_as_a_whole(pair: Pair, other: Pair) -> None:
    """New connections get the newest certificate, and one that is made already keeps its own (ED1)."""
    renewed = RenewedContext()
    renewed.current = load_context(spec(cert=pair.cert, key=pair.key))
    first = renewed.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    renewed.current = load_context(spec(cert=other.cert, key=other.key))
    second = renewed.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    assert isinstance(renewed, ssl.SSLContext)
    assert first.context is not second.context


def test_renewed_files_are_noticed(pair: Pair, other: Pair, tmp_path: Path) -> None:
    """Files that are replaced, also behind a link, have other signatures (ED1)."""
    link = tmp_path / "cert"
    link.symlink_to(pair.cert)
    tls = spec(cert=str(link), key=pair.key)
    before = tls.signatures
    assert tls.signatures == before
    fresh = tmp_path / "fresh"
    fresh.symlink_to(other.cert)
    os.replace(fresh, link)
    assert tls.signatures != before
