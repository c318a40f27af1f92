"""Configuration files as commands, for tests with real processes: to read a file is the client's business."""

from __future__ import annotations

import pointsman as serve
from pointsman.client.backends import prepare
from pointsman.client.operations import new_id
from pointsman.config import config_spec
from pointsman.model import Resources, Source
from pointsman.wire.apply import Declared, OperationView, Plan, WantedBackend, WantedEndpoint
from pointsman.wire.commands import Apply, AwaitOperation, QueryDeclared
from pointsman.wire.messages import unpack


def declared(client: serve.Client) -> Declared:
    return unpack(client._session.command(QueryDeclared(new_id())), Declared)


class File:
    """A file of one owner, applied again and again; its objects begin with the owner's name."""

    def __init__(self, client: serve.Client, owner: str) -> None:
        self.client, self.owner = client, owner
        self.codes: dict[str, bytes] = {}

    def backend(self, code: type, weights: str, **config: object) -> WantedBackend:
        package = prepare(code, (weights,), None, Resources(), None)
        self.codes[package.digest] = package.blob
        source = Source(f"{code.__module__}:{code.__qualname__}", args=f'["{weights}"]'.encode())
        return WantedBackend(package.digest, package.origin, package.traits, config_spec(config), Resources(), source)

    def endpoint(self, **weights: float) -> WantedEndpoint:
        shares = {f"{self.owner}-{tag}": weight for tag, weight in weights.items()}
        return WantedEndpoint(f"/{self.owner}", ("GET",), shares)

    def send(
        self, *, delete: tuple[str, ...] = (), endpoint: WantedEndpoint | None = None, **backends: WantedBackend
    ) -> str:
        """Begin an apply; returns its id."""
        state = declared(self.client)
        plan = Plan(
            backends={f"{self.owner}-{tag}": backend for tag, backend in backends.items()},
            endpoints={self.owner: endpoint} if endpoint else {},
            delete_backends=tuple(f"{self.owner}-{tag}" for tag in delete),
        )
        order = Apply(new_id(), self.owner, state.version, plan, self.codes, by="a test")
        self.client._session.command(order)
        return order.id

    def outcome(self, operation: str) -> OperationView:
        return unpack(self.client._session.command(AwaitOperation(new_id(), operation)), OperationView)

    def pids(self, tag: str) -> set[int]:
        """The processes of a backend."""
        return {replica["pid"] for replica in self.client.status()["backends"][f"{self.owner}-{tag}"]["replicas"]}
