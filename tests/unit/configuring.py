"""Configuration files for tests: the example of the documentation, and files in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pointsman.configfile.checking import Config, load
from pointsman.configfile.problems import BadFileError

EXAMPLE = """\
pointsman: 1
name: shop
instance: {http: {port: 8000}, console: {port: 8070}}  # for `run`
backends:
  ranker-v1:
    code: ranking:Ranker          # this file's folder first
    args: [weights-1.bin]
    config: {num_replicas: 2, user_config: {threshold: 0.5}}
  ranker-v2:
    code: ranking:Ranker
    args: [weights-2.bin]
    version: "2"                  # for what files do not show
    env: {requirements: ["scikit-learn==1.5.2"]}
    ray_actor_options: {env_vars: {HUB: "${HUB_TOKEN}"}}
endpoints:
  rank:
    route: /rank
    methods: [POST]
    traffic: {ranker-v1: 95%, ranker-v2: 5%}
    shadows: {ranker-v2: 10%}
"""
HEAD = "pointsman: 1\nname: shop\n"


def config_of(folder: Path, text: str, variables: Mapping[str, str] = {}, *, suffix: str = "yaml") -> Config:
    """A file with this text, read and checked."""
    file = folder / f"shop.{suffix}"
    file.write_text(text)
    return load(file, variables)


def lines_of(folder: Path, text: str, variables: Mapping[str, str] = {}, *, suffix: str = "yaml") -> list[str]:
    """What is wrong with a file, a line for each problem, without the name of its folder."""
    with pytest.raises(BadFileError) as caught:
        config_of(folder, text, variables, suffix=suffix)
    return str(caught.value).replace(f"{folder}/", "").splitlines()
