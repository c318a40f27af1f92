"""Operations on endpoints and their traffic: splits, shadows, pins, history, and explanations of routing decisions."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from pointsman import arguments
from pointsman.arguments import check_timeout
from pointsman.client.importing import custom_policy, importable
from pointsman.client.operations import Operations, endpoint_view, new_id
from pointsman.comparing.comparers import comparison
from pointsman.model import DEFAULT_SHARD_KEY, EndpointSpec, Pins, TrafficPolicy
from pointsman.model.comparison import Function
from pointsman.policy.shardkey import MAX_PINS, check_key, check_source
from pointsman.routing.chooser import Chooser
from pointsman.usercode.paths import import_folders
from pointsman.wire.commands import (
    CreateEndpoint,
    DeleteEndpoint,
    Pin,
    RollbackTraffic,
    SetTraffic,
    ShadowTraffic,
    Unpin,
)


class EndpointOperations(Operations):
    """Creates, deletes and lists endpoints."""

    def create_endpoint(
        self,
        endpoint_name: str,
        *,
        backend: str | None = None,
        route: str | None = None,
        methods: list[str] | None = None,
        idempotent: bool = False,
        shard_key: str = DEFAULT_SHARD_KEY,
        request_timeout_s: float | None = None,
        max_body_bytes: float | None = None,
    ) -> None:
        """Make a name by which a backend is called, and optionally an HTTP route.

        Args:
            endpoint_name: 1-200 printable characters.
            backend: tag of the backend that gets all traffic at first.
            route: HTTP path, exact (``/digits``) or a template (``/x/{id}``, ``/files/{rest:path}``); None for
                handles only. For an ASGI app it is a prefix.
            methods: HTTP methods; default ``["GET"]``. An ASGI app gets all, and takes no ``methods``.
            shard_key: where an HTTP request carries the key that keeps it with one backend: ``"header:NAME"``,
                ``"cookie:NAME"`` or ``"query:NAME"``; default the header ``X-SERVE-SHARD-KEY``.
            request_timeout_s: deadline of a call in seconds, to the first byte of its answer; None for the instance's.
            max_body_bytes: largest body of a request; None for the instance's. ``math.inf`` is no limit, for ASGI apps.
            idempotent: whether a request that had started may be repeated when its replica dies.

        Raises:
            TypeError, ValueError: an argument is wrong, the backend unknown, or name or route taken.
            TimeoutError: not every HTTP server serves the route after 60 s.
        """
        name = arguments.check_object_name(endpoint_name, "endpoint_name")
        if not isinstance(backend, str):
            raise TypeError(f"backend must be the tag of a backend, a str, not {backend!r}")
        route = arguments.check_route(route)
        command = CreateEndpoint(
            new_id(),
            name,
            backend,
            route,
            arguments.check_methods(methods, ()),
            bool(idempotent),
            check_source(shard_key),
            check_timeout(request_timeout_s, "request_timeout_s"),
            arguments.check_max_body(max_body_bytes),
        )
        self._change(command)

    def delete_endpoint(self, endpoint: str) -> None:
        """Remove an endpoint; its backends stay. An unknown one is logged and ignored.

        Args:
            endpoint: name of the endpoint.

        Raises:
            TypeError, ValueError: it is no name.
        """
        self._change(DeleteEndpoint(new_id(), arguments.check_object_name(endpoint, "endpoint")))

    def list_endpoints(self) -> dict[str, dict[str, Any]]:
        """``{name: {"route", "methods", "traffic", "shadows"}}``."""
        return {name: endpoint_view(spec) for name, spec in self._status().endpoints.items()}


BUILT_IN = "weighted"
NOISE, KEEP = 0.1, 50


class TrafficOperations(Operations):
    """Decides which backends answer an endpoint's calls, and which get shadow calls."""

    def set_traffic(
        self,
        endpoint_name: str,
        traffic_policy_dictionary: Mapping[str, float] | None,
        *,
        policy: str | None = None,
        shadows: Mapping[str, float] | None = None,
    ) -> None:
        """Split an endpoint's traffic between backends, from the next request on. Pins stay, and shadows unless others
        are given.

        Args:
            endpoint_name: name of the endpoint.
            traffic_policy_dictionary: backend tag -> weight; weights are at least 0 and sum to 1. None, with shadows,
                leaves the weights as they are.
            shadows: backend tag -> proportion in [0, 1], of all shadows from now on; those that stay are compared as
                before. They change together with the weights.
            policy: import path (``"package.module:name"``) of a policy of your own, an object or class with a method
                ``choose(call, split, draw)``; ``"weighted"`` for the built-in one. Left out, it stays as it is.

        Raises:
            TypeError: not a dict, a weight or proportion that is no number, or a policy without ``choose``.
            ValueError: a bad weight, sum or proportion, an unknown endpoint or backend, or a policy that cannot be
                imported. Nothing has changed.
        """
        floats = traffic_policy_dictionary
        if floats is not None or shadows is None:
            floats = _shares(floats, "the traffic policy", "weight of backend")
        mirrored = _shares(shadows, "shadows", "proportion of shadow") if shadows is not None else None
        name = arguments.check_object_name(endpoint_name, "endpoint_name")
        custom = None if policy in (None, BUILT_IN) else custom_policy(policy, import_folders())
        self._change(SetTraffic(new_id(), name, floats, custom, policy is None, mirrored))

    def get_traffic(self, endpoint: str) -> dict[str, Any]:
        """The traffic policy in force.

        Args:
            endpoint: name of the endpoint.

        Returns:
            ``{"version", "weights", "shadows", "policy", "shard_key", "pins"}``: ``policy`` is ``"weighted"`` or the
            import path of your own, ``shard_key`` where HTTP requests carry their key, ``pins`` a dict of key to
            backend.

        Raises:
            ValueError: there is no such endpoint.
        """
        view = self._traffic(arguments.check_object_name(endpoint, "endpoint"))
        return {
            **_policy_view(view.endpoint.policy),
            "shard_key": view.endpoint.shard_key,
            "pins": dict(view.pins.keys),
        }

    def traffic_history(self, endpoint: str) -> list[dict[str, Any]]:
        """The last 50 traffic policies, oldest first; the last one is in force.

        Args:
            endpoint: name of the endpoint.

        Returns:
            For each ``{"version", "weights", "shadows", "policy", "time", "change", "by"}``: ``time`` is ISO 8601 in
            UTC, ``change`` what made it (``"set_traffic"``, ...), ``by`` user, program and pid that asked for it.

        Raises:
            ValueError: there is no such endpoint.
        """
        view = self._traffic(arguments.check_object_name(endpoint, "endpoint"))
        return [
            {**_policy_view(change.policy), "time": change.time, "change": change.change, "by": change.by}
            for change in view.history.changes
        ]

    def rollback_traffic(self, endpoint: str, version: int | None = None) -> None:
        """Make an older traffic policy, weights and shadows, the newest one again. Every shard key then goes to the
        same backend as under that policy.

        Args:
            endpoint: name of the endpoint.
            version: one of :meth:`traffic_history`; None for the policy before the one in force.

        Raises:
            TypeError: ``version`` is no int.
            ValueError: an unknown endpoint or version, or a backend of that policy was deleted. Nothing has changed.
        """
        name = arguments.check_object_name(endpoint, "endpoint")
        if version is not None and (isinstance(version, bool) or not isinstance(version, int)):
            raise TypeError(f"version must be an int or None, not {version!r}")
        if version is not None and not 0 < version < 2**63:
            raise ValueError(f"version {version} cannot be one of a traffic policy; traffic_history() lists them")
        self._change(RollbackTraffic(new_id(), name, version))

    def shadow_traffic(
        self,
        endpoint_name: str,
        backend_tag: str,
        proportion: float,
        *,
        compare: Any = None,
        noise: float = NOISE,
        keep: int = KEEP,
        redact: Sequence[str] = (),
    ) -> None:
        """Send shadow copies of an endpoint's calls to a backend, unnoticed by callers. The answers are discarded, or
        compared with those that users get: :meth:`shadow_report` and :meth:`shadow_examples` say what came of it.

        Args:
            endpoint_name: name of the endpoint.
            backend_tag: the backend that gets the copies.
            proportion: probability in [0, 1] that a call is copied; 0 ends the shadow.
            compare: ``"exact"``, ``"json"``, or what a function of ``serve.compare`` returned; ``"none"`` compares no
                more. Left out, it stays as it is. Other options than before begin afresh.
            noise: probability in [0, 1] that a compared copy has a second one, which goes to the backend that answers
                the user: it shows how often that backend disagrees with itself.
            keep: how many examples of answers that do not match are kept, 0 to 1000.
            redact: paths of values that are never stored, such as ``["$.user.email"]``.

        Raises:
            TypeError: ``proportion`` is no number, or another argument is of another type.
            ValueError: a number is out of its range, a path is none, a function cannot be imported, options of a
                comparison are given without ``compare``, or endpoint or backend are unknown. Nothing has changed.
        """
        name = arguments.check_object_name(endpoint_name, "endpoint_name")
        tag = arguments.check_object_name(backend_tag, "backend_tag")
        share = _number(proportion, "proportion")
        if compare is None:
            if noise != NOISE or keep != KEEP or redact not in ((), []):
                raise ValueError("noise, keep and redact are options of a comparison; give compare, too")
            self._change(ShadowTraffic(new_id(), name, tag, share))
            return
        wanted = comparison(compare, noise=noise, keep=keep, redact=redact)
        if wanted is not None and isinstance(wanted.by, Function):
            wanted = replace(wanted, by=importable(wanted.by, import_folders()))
        self._change(ShadowTraffic(new_id(), name, tag, share, wanted, keep_comparison=False))

    def pin(self, endpoint: str, shard_key: str | Sequence[str], backend: str) -> None:
        """Send all calls with a shard key to one backend, regardless of the weights; the backend needs no weight.

        Args:
            endpoint: name of the endpoint.
            shard_key: at most 256 bytes of UTF-8; or a list of such keys, which are pinned together. At most 10,000
                keys of an endpoint can be pinned.
            backend: tag of the backend that gets the calls.

        Raises:
            TypeError, ValueError: an argument is wrong, endpoint or backend are unknown, or there would be too many
                pins. Nothing has changed.
        """
        name = arguments.check_object_name(endpoint, "endpoint")
        tag = arguments.check_object_name(backend, "backend")
        self._change(Pin(new_id(), name, _keys(shard_key), tag))

    def unpin(self, endpoint: str, shard_key: str | Sequence[str]) -> None:
        """Let weights decide again about a shard key, or a list of them. One that is not pinned is logged and ignored.

        Args:
            endpoint: name of the endpoint.
            shard_key: a key, or a list of keys.

        Raises:
            TypeError, ValueError: an argument is wrong, or the endpoint is unknown.
        """
        self._change(Unpin(new_id(), arguments.check_object_name(endpoint, "endpoint"), _keys(shard_key)))

    def explain(self, endpoint: str, *, shard_key: str | None = None, version: int | None = None) -> dict[str, Any]:
        """Which backend answers calls with a shard key, and why.

        Args:
            endpoint: name of the endpoint.
            shard_key: None for calls without one, which are drawn by weight.
            version: of an earlier policy, one of :meth:`traffic_history`; None for the one in force. Pins are always
                those of now.

        Returns:
            ``{"endpoint", "shard_key", "backend", "why", "policy_version", "weights", "numbers"}``: ``backend`` is None
            where it differs from call to call, ``why`` is ``"pin"``, ``"policy"`` (your own), ``"shard key"`` or
            ``"weight"``, and ``numbers`` what each backend drew for the key: the smallest wins.

        Raises:
            TypeError, ValueError: an argument is wrong, the endpoint is unknown, or no policy of that version is kept.
        """
        view = self._traffic(arguments.check_object_name(endpoint, "endpoint"))
        if shard_key is not None:
            check_key(shard_key)
        spec = view.endpoint
        if version is not None and version != spec.policy.version:
            kept = {change.policy.version: change.policy for change in view.history.changes}
            if version not in kept:
                known = ", ".join(map(str, kept))
                raise ValueError(
                    f"endpoint {endpoint!r} has no traffic policy of version {version!r:.20}; it has {known}"
                )
            spec = replace(spec, policy=kept[version])
        return self._explained(spec, view.pins, shard_key)

    def _explained(self, endpoint: EndpointSpec, pins: Pins, shard_key: str | None) -> dict[str, Any]:
        return Chooser(endpoint, pins).explain(shard_key)


def _policy_view(policy: TrafficPolicy) -> dict[str, Any]:
    return {
        "version": policy.version,
        "weights": dict(policy.weights),
        "shadows": dict(policy.shadows),
        "policy": policy.custom.path if policy.custom else BUILT_IN,
    }


def _keys(shard_key: Any) -> tuple[str, ...]:
    """The given key or keys, without duplicates."""
    if not isinstance(shard_key, (list, tuple)):
        return (check_key(shard_key),)
    if len(shard_key) > MAX_PINS:
        raise ValueError(f"{len(shard_key)} shard keys were given, and {MAX_PINS} of an endpoint may be pinned")
    return tuple(dict.fromkeys(check_key(key) for key in shard_key))


def _shares(given: Any, what: str, one: str) -> dict[str, float]:
    """Numbers by backend.

    Raises:
        TypeError: it is no such dict.
    """
    if not isinstance(given, dict):
        raise TypeError(f"{what} must be a dict of backend to {one.split()[0]}, not {given!r}")
    for tag in given:
        if not isinstance(tag, str):
            raise TypeError(f"{what} has the key {tag!r}, which is not a str")
    return {tag: _number(share, f"{one} {tag!r}") for tag, share in given.items()}


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{what} must be a number, not {value!r}")
    try:
        return float(value)
    except OverflowError:
        # An int that no float can hold is out of range like infinity: the caller's own check refuses it.
        return -math.inf if str(value).startswith("-") else math.inf
