"""One way of saying each store, and a sentence for every other."""

from pathlib import Path

import pytest
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry

from keystile_common.metrics import StoreMetrics
from keystile_common.settings import Section, SettingsError, StoreSettings, load
from keystile_common.store import connect
from keystile_common.store_client import address


class Example(Section):
    store: StoreSettings = StoreSettings()


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"URL": "redis://a/0", "CLUSTER": "['b:1']"}, "store.url and store.cluster name two stores"),
        (
            {"SENTINELS": "['a:1']", "SENTINEL_MASTER": "m", "CLUSTER": "['b:1']"},
            "store.sentinels and store.cluster name two stores",
        ),
        ({"SENTINELS": "['a:1']"}, "store.sentinel_master is missing"),
        ({"SENTINEL_MASTER": "m"}, "store.sentinels is missing"),
        ({"SENTINEL_PASSWORD": "the-secret"}, "are for store.sentinels"),
        ({"TLS": "true"}, "store.url says it with rediss://"),
        ({"CA_FILE": "/ca.crt"}, "store.ca_file is for TLS; write store.url with rediss://"),
        ({"CLUSTER": "['a:1']", "CA_FILE": "/ca.crt"}, "store.ca_file is for TLS; set store.tls"),
        ({"URL": "rediss://a/0", "CERTIFICATE_FILE": "/a.crt"}, "store.key_file is missing"),
        ({"URL": "rediss://a/0", "KEY_FILE": "/a.key"}, "store.certificate_file is missing"),
        ({"CLUSTER": "a:1"}, "must be written as YAML has it"),
        ({"CLUSTER": "['a']"}, "must be host:port"),
        ({"CLUSTER": "['a:0']"}, "with a port from 1 to 65535"),
        ({"CLUSTER": "['a:65536']"}, "with a port from 1 to 65535"),
        ({"CLUSTER": "['a:\u0663']"}, "with a port from 1 to 65535"),
        ({"CLUSTER": "['user:word@a:1']"}, "must be host:port"),
        ({"CLUSTER": "['redis://a:1']"}, "must be host:port"),
        ({"CLUSTER": "['::1:1']"}, "must be host:port"),
    ],
)
def test_what_names_no_store_or_two_is_refused_by_name(variables: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load(Example, {f"KEYSTILE_STORE__{name}": value for name, value in variables.items()})
    assert sentence in str(raised.value)
    assert "the-secret" not in str(raised.value)


def test_each_shape_is_said_by_variables_too() -> None:
    store = load(
        Example,
        {
            "KEYSTILE_STORE__SENTINELS": "['a.example:26379', '[::1]:26380']",
            "KEYSTILE_STORE__SENTINEL_MASTER": "mymaster",
            "KEYSTILE_STORE__TLS": "true",
        },
    ).store
    assert [address(node) for node in store.sentinels] == [("a.example", 26379), ("::1", 26380)]
    assert store.uses_tls
    assert not load(Example, {"KEYSTILE_STORE__CLUSTER": "['a:1']"}).store.uses_tls
    assert load(Example, {"KEYSTILE_STORE__URL": "rediss://a/0"}).store.uses_tls


@pytest.mark.parametrize(
    ("setting", "content", "reason"),
    [
        ("ca_file", None, "No such file or directory"),
        ("ca_file", "no certificate", "not a usable PEM file"),
        ("certificate_file", None, "No such file or directory"),
        ("key_file", "no key", "not a usable PEM file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_at_the_start(
    tmp_path: Path, setting: str, content: str | None, reason: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_text(content)
    files = {"certificate_file": path, "key_file": path} if setting != "ca_file" else {"ca_file": path}
    settings = StoreSettings.model_validate({"url": "rediss://127.0.0.1/0", **files})
    with pytest.raises(SettingsError, match=f"store.{setting}: cannot use .*: {reason}"):
        connect(settings, StoreMetrics(CollectorRegistry()), NoOpTracer())
