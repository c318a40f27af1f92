"""What ``start`` was told of who may use the HTTP port: checked, and made into what HTTP servers get."""

from __future__ import annotations

import logging
import os
from typing import Any

import msgspec

from pointsman.config import HTTPOptions
from pointsman.flags import HTTP_FLAGS, words_of
from pointsman.limits import MAX_LOCK, check_size
from pointsman.lock.hosts import check_hosts, check_proxies, is_loopback
from pointsman.lock.keyfile import read_keys
from pointsman.lock.keys import specs_of
from pointsman.lock.origins import cors_spec
from pointsman.lock.tls import load_context, tls_spec
from pointsman.usercode.paths import absolute
from pointsman.wire.handover import LockSettings

log = logging.getLogger("pointsman")

WILDCARDS = ("0.0.0.0", "::", "")


def lock_settings(http: HTTPOptions, api_keys: Any) -> LockSettings:
    """What HTTP servers ask of clients. Reads the files, which must be right.

    Args:
        api_keys: list of ApiKey, path of a file, or None.

    Raises:
        TypeError, ValueError: keys or files are wrong, or there are too many keys for a list.
    """
    key_file = absolute(api_keys, "api_keys") if isinstance(api_keys, (str, os.PathLike)) else ""
    keys = () if api_keys is None or key_file else specs_of(api_keys)
    if not http.serves:
        if api_keys is not None:
            raise ValueError("api_keys were given, and there is no HTTP server that would ask for them")
        return LockSettings()
    if key_file:
        read_keys(key_file)
    tls = tls_spec(http.tls) if http.tls is not None else None
    if tls is not None:
        load_context(tls)
    made = LockSettings(
        keys=keys,
        key_file=key_file,
        tls=tls,
        cors=cors_spec(http.cors),
        allowed_hosts=check_hosts(http.allowed_hosts),
        trusted_proxies=check_proxies(http.trusted_proxies),
    )
    size = len(msgspec.msgpack.encode(made))
    check_size("api_keys, cors, allowed_hosts and trusted_proxies take", size, MAX_LOCK, "put the keys into a file")
    return made


def warn_of_open_port(http: HTTPOptions, lock: LockSettings) -> None:
    """Say that others can use the instance, where they can, nobody is asked for anything, and that is not said to be
    meant."""
    asks = lock.wants_key or (lock.tls is not None and lock.tls.client_ca)
    if asks or http.insecure or http.host is None or is_loopback(http.host):
        return
    where = "every address of this machine" if http.host in WILDCARDS else http.host
    log.warning(
        "the HTTP server listens on %s, and asks nobody who they are; give api_keys, or say insecure=True in"
        " http_options (--insecure) if that is meant",
        where,
    )


def restart_options(http: HTTPOptions, lock: LockSettings) -> tuple[str, ...]:
    """Options of the command line with which HTTP servers do the same again. Keys of a list, and all that has no
    option, are left out."""
    fields = HTTPOptions.model_fields
    values = {name: getattr(http, name) for name in fields if getattr(http, name) != fields[name].default}
    if lock.tls is not None:  # with absolute paths
        files = {"cert": lock.tls.cert, "key": lock.tls.key, "client_ca": lock.tls.client_ca}
        values["tls"] = {name: path for name, path in files.items() if path}
    keys = ("--api-keys", lock.key_file) if lock.key_file else ()
    return (*keys, *words_of(HTTP_FLAGS, values))
