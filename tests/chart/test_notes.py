"""examples/notes: the same server by the chart and by a Deployment of its own."""

import yaml

from keystile_mcp.settings import McpSettings
from tests.chart.manifests import REPOSITORY, assert_fits, read
from tests.chart.release import render

NOTES = REPOSITORY / "examples" / "notes"
SECRET = {"client_id": "notes", "client_secret": "x"}


def _by_hand() -> McpSettings:
    (settings,) = [each for each in read((NOTES / "deployment.yaml").read_text()) if each["kind"] == "ConfigMap"]
    values = yaml.safe_load(settings["data"]["keystile.yaml"])
    return McpSettings.model_validate({**values, "introspection": {**values["introspection"], **SECRET}})


def test_the_deployment_is_what_kubernetes_takes() -> None:
    assert_fits((NOTES / "deployment.yaml").read_text())


def test_the_values_make_a_deployment_that_serves_it_too() -> None:
    release = render(
        "--values", str(NOTES / "values.yaml"), "--set", "issuer=https://auth.example.com,existingSecret=keystile"
    )
    assert_fits(release.text)
    settings = yaml.safe_load(release.get("ConfigMap", "keystile-notes")["data"]["keystile.yaml"])
    by_hand = _by_hand()
    for name in ("app", "resource", "scopes", "required_scopes", "policy"):
        assert settings[name] == getattr(by_hand, name)


def test_the_settings_for_one_machine_say_the_same() -> None:
    settings, by_hand = yaml.safe_load((NOTES / "keystile.yaml").read_text()), _by_hand()
    for name in ("app", "scopes", "required_scopes", "policy"):
        assert settings[name] == getattr(by_hand, name)
