"""The services find the embedded topology by its name, and say what is missing where it is not there."""

import sys
from importlib.metadata import entry_points
from typing import Any

import pytest

import keystile_auth.cli.session
import keystile_mcp.__main__
from keystile_auth.cli.session import CommandError, load_settings
from keystile_common.settings import SettingsError
from keystile_embedded.serve import main
from keystile_embedded.settings import load_of_running


def _none(**_: Any) -> tuple[()]:
    return ()


def test_the_services_find_it_by_its_entry_points() -> None:
    (serving,) = entry_points(group="keystile_mcp.topologies", name="embedded")
    (settings,) = entry_points(group="keystile_auth.settings", name="embedded")
    assert (serving.load(), settings.load()) == (main, load_of_running)


@pytest.mark.parametrize("asked", ["flag", "variable"])
def test_where_it_is_not_installed_the_command_says_what_to_run(
    asked: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(keystile_mcp.__main__, "entry_points", _none)
    monkeypatch.setattr(sys, "argv", ["keystile-mcp", *(["--embedded"] if asked == "flag" else [])])
    if asked == "variable":
        monkeypatch.setenv("KEYSTILE_TOPOLOGY", "embedded")
    with pytest.raises(SystemExit) as ended:
        keystile_mcp.__main__.main()
    assert ended.value.code == 2
    assert "run the image keystile-embedded, or install the package keystile-embedded" in capsys.readouterr().err


def test_a_topology_that_does_not_exist_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KEYSTILE_TOPOLOGY", "embeded")
    monkeypatch.setattr(sys, "argv", ["keystile-mcp"])
    with pytest.raises(SystemExit):
        keystile_mcp.__main__.main()
    assert "KEYSTILE_TOPOLOGY: must be separate or embedded, not embeded" in capsys.readouterr().err
    with pytest.raises(SettingsError, match="must be separate or embedded"):
        load_settings()


def test_where_it_is_not_installed_operators_are_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keystile_auth.cli.session, "entry_points", _none)
    monkeypatch.setenv("KEYSTILE_TOPOLOGY", "embedded")
    with pytest.raises(CommandError, match="the package keystile-embedded is not installed"):
        load_settings()
