"""The cluster's key-value store: small values that live as long as the cluster does. All calls block, a few seconds at
most."""

from __future__ import annotations

from typing import Any

from ray.experimental.internal_kv import internal_kv_get_gcs_client

KV_NAMESPACE = b"pointsman"
TIMEOUT_S = 4.0


class KeyValueError(Exception):
    """The cluster did not answer; a write may or may not have been made."""


class KeyValues:
    """The keys of one instance.

    Args:
        prefix: what all of them begin with; the instance's namespace.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode() + b"/"

    def get(self, key: str) -> bytes | None:
        """The value, or None. Raises KeyValueError."""
        value = _ask("get", self._prefix + key.encode())
        return None if value is None else bytes(value)

    def put(self, key: str, value: bytes) -> None:
        """Write, whole or not at all. Raises KeyValueError."""
        _ask("put", self._prefix + key.encode(), value, True)

    def delete(self, key: str) -> None:
        """Remove a key, which need not be there. Raises KeyValueError."""
        _ask("del", self._prefix + key.encode(), False)

    def clear(self) -> None:
        """Remove all keys. Raises KeyValueError."""
        _ask("del", self._prefix, True)

    def keys(self, start: str) -> list[str]:
        """All keys that begin so. Raises KeyValueError."""
        found = _ask("keys", self._prefix + start.encode())
        return [key[len(self._prefix) :].decode() for key in found]


def _ask(verb: str, *args: Any) -> Any:
    client = internal_kv_get_gcs_client()
    if client is None:
        raise KeyValueError("this process is not in a Ray cluster")
    try:
        return getattr(client, f"internal_kv_{verb}")(*args, KV_NAMESPACE, timeout=TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 - what Ray raises while its head is away has no common base
        raise KeyValueError(f"the Ray cluster did not answer within {TIMEOUT_S:g} s: {error}") from None
