"""What a checked file wants, in the form in which it is compared with what runs."""

from __future__ import annotations

from typing import Any

from pointsman import arguments
from pointsman.actor_options import PLACES
from pointsman.configfile.checking import Config, absolute_options, import_path, whole
from pointsman.configfile.environment import env_kind
from pointsman.configfile.fields import Fields, Json, given_config
from pointsman.configfile.models import BackendSection, EndpointSection, parse_share
from pointsman.configfile.plan import Wanted
from pointsman.configfile.problems import BadFileError, sentence
from pointsman.engine.instances import parse_actor_options
from pointsman.environments.kinds import env_form
from pointsman.policy.shardkey import check_source
from pointsman.policy.traffic import normalised
from pointsman.usercode.paths import import_folders


def wanted_of(config: Config, control_path: str | None) -> Wanted:
    """What a file wants of an instance.

    Args:
        control_path: of the instance, whose engine decides about ``ray_actor_options``; None for none: then options
            about nodes of a cluster are not looked at.

    Raises:
        BadFileError: an option that the engine does not have, or a value that it cannot have there.
    """
    problems, backends = [], {}
    for tag, section in config.section.backends.items():
        try:
            backends[tag] = _backend(section, config, control_path)
        except (TypeError, ValueError) as error:
            keys = ("backends", tag, "ray_actor_options")
            problems.append(config.document.problem(keys, sentence(error)))
    if problems:
        raise BadFileError(problems)
    return Wanted(
        owner=config.owner,
        backends=backends,
        endpoints={name: _endpoint(section) for name, section in config.section.endpoints.items()},
        initial_traffic={
            name: _weights(section.initial_traffic)
            for name, section in config.section.endpoints.items()
            if section.initial_traffic is not None
        },
        policy_folders=policy_folders(config),
    )


def policy_folders(config: Config) -> tuple[str, ...]:
    """Where custom policies are imported from."""
    return (*config.folders, *import_folders())


def _backend(section: BackendSection, config: Config, control_path: str | None) -> Fields:
    fields: Fields = {"code": import_path(section.code)}
    if "args" in section.model_fields_set:
        fields["args"] = Json.of(section.args)
    if section.env is not None:
        fields["env"] = env_form(env_kind(section.env, config.folder))
    if "ray_actor_options" in section.model_fields_set:
        options = absolute_options(section.ray_actor_options, config.folder)
        if control_path is None:
            options = {name: value for name, value in options.items() if name not in PLACES}
        fields["ray_actor_options"] = parse_actor_options(options, control_path or "")
    if "version" in section.model_fields_set:
        fields["version"] = section.version
    return {**fields, **given_config(section.config)}


def _endpoint(section: EndpointSection) -> Fields:
    fields: Fields = {}
    if section.backend is not None:
        fields["traffic"] = {section.backend: 1.0}
    if section.traffic is not None:
        fields["traffic"] = _weights(section.traffic)
    if section.shadows is not None:
        shares = {tag: parse_share(share) for tag, share in section.shadows.items()}
        fields["shadows"] = {tag: share for tag, share in shares.items() if share}
    if section.pins is not None:
        fields["pins"] = dict(section.pins)
    if section.custom is not None:
        fields["custom"] = import_path(section.custom)
    if section.route is not None:
        fields["route"] = arguments.check_route(section.route)
    if section.methods is not None:
        fields["methods"] = tuple(sorted(arguments.check_methods(section.methods, ())))
    if "idempotent" in section.model_fields_set:
        fields["idempotent"] = section.idempotent
    if section.shard_key is not None:
        fields["shard_key"] = check_source(section.shard_key)
    if section.request_timeout_s is not None:
        fields["request_timeout_s"] = section.request_timeout_s
    if section.max_body_bytes is not None:
        fields["max_body_bytes"] = whole(section.max_body_bytes)
    return fields


def _weights(shares: dict[str, Any]) -> dict[str, float]:
    return normalised({tag: parse_share(share) for tag, share in shares.items()})
