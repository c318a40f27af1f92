"""What is read of a command line before its command runs."""

from __future__ import annotations

import pytest
import typer
from typer.main import get_group

from pointsman.cli.main import app, app_for


def test_a_command_that_is_asked_for_is_read_alone() -> None:
    """Each command and group of commands is found by its name, as it is among all others."""
    everything = get_group(app).commands
    for name, command in everything.items():
        (alone,) = get_group(app_for([name, "--help"])).commands.values()
        assert alone.name == name
        assert alone.get_usage(typer.Context(alone)) == command.get_usage(typer.Context(command))


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["statsu"], ["list_instances"]])
def test_a_command_line_without_a_command_is_read_among_all(arguments: list[str]) -> None:
    """Help lists all commands, and a mistyped one is told which are alike."""
    assert app_for(arguments) is app
