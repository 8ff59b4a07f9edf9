"""Where settings come from, which wins, and how a mistake is told."""

from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from keystile_common.settings import PublicUrl, Section, SettingsError, load


class Deep(Section):
    secret: SecretStr | None = None
    ports: list[int] = []
    size: int = Field(default=1, ge=1)


class Example(Section):
    url: PublicUrl = "https://a.example"
    deep: Deep = Deep()
    named: dict[str, Deep] = {}
    trusted: list[str] = []
    many: list[Deep] = []
    required: str


def read(tmp_path: Path, yaml: str | None = None, secrets: dict[str, str] | None = None, **environ: str) -> Example:
    if yaml is not None:
        (tmp_path / "config.yaml").write_text(yaml)
        environ["KEYSTILE_CONFIG"] = str(tmp_path / "config.yaml")
    if secrets is not None:
        folder = tmp_path / "secrets"
        folder.mkdir()
        for name, value in secrets.items():
            (folder / name).write_text(value)
        environ["KEYSTILE_SECRETS_DIR"] = str(folder)
    return load(Example, environ)


def problem(tmp_path: Path, yaml: str | None = None, secrets: dict[str, str] | None = None, **environ: str) -> str:
    with pytest.raises(SettingsError) as raised:
        read(tmp_path, yaml, secrets, **{"KEYSTILE_REQUIRED": "x", **environ})
    return str(raised.value)


def test_the_file_is_read(tmp_path: Path) -> None:
    settings = read(tmp_path, "required: a\ndeep: {size: 3, ports: [1, 2]}\nnamed: {one: {size: 4}}\n")
    assert (settings.required, settings.deep.size, settings.deep.ports) == ("a", 3, [1, 2])
    assert settings.named["one"].size == 4


def test_a_secret_file_comes_before_the_yaml_file_and_a_variable_before_both(tmp_path: Path) -> None:
    yaml = "required: yaml\ndeep: {secret: yaml, size: 3}\ntrusted: [yaml]\n"
    settings = read(tmp_path, yaml, {"deep__secret": "file\n", "required": "file"}, KEYSTILE_REQUIRED="variable")
    assert settings.required == "variable"
    assert settings.deep.secret is not None
    assert settings.deep.secret.get_secret_value() == "file"
    assert (settings.deep.size, settings.trusted) == (3, ["yaml"])


def test_a_secret_of_an_item_of_a_list_goes_by_its_number(tmp_path: Path) -> None:
    secrets = {"many__1__secret": "second", "many__0__ports": "[1, 2]"}
    settings = read(tmp_path, "required: a\nmany: [{size: 3}, {size: 4}]\n", secrets)
    assert [(each.size, each.ports) for each in settings.many] == [(3, [1, 2]), (4, [])]
    assert settings.many[1].secret is not None
    assert settings.many[1].secret.get_secret_value() == "second"


@pytest.mark.parametrize(
    "name", ["many__2__secret", "many__-1__secret", "many__x__secret", "many__0", "many__0__ports__0"]
)
def test_an_item_that_the_list_does_not_have_is_refused(tmp_path: Path, name: str) -> None:
    said = problem(tmp_path, "many: [{size: 3}, {size: 4}]\n", {name: "hidden"})
    assert name in said
    assert "hidden" not in said


def test_a_list_or_map_in_a_variable_is_yaml(tmp_path: Path) -> None:
    settings = read(
        tmp_path, KEYSTILE_REQUIRED="x", KEYSTILE_TRUSTED="[a, b]", KEYSTILE_NAMED="{one: {ports: [1]}}",
        KEYSTILE_DEEP__PORTS="[3]", KEYSTILE_NAMED__TWO__SIZE="7",
    )  # fmt: skip
    assert settings.trusted == ["a", "b"]
    assert settings.deep.ports == [3]
    assert settings.named["two"].size == 7


def test_text_that_looks_like_yaml_stays_text(tmp_path: Path) -> None:
    assert read(tmp_path, KEYSTILE_REQUIRED="no").required == "no"
    assert read(tmp_path, KEYSTILE_REQUIRED="{a: b}").required == "{a: b}"


def test_links_beside_the_keys_of_a_mounted_secret_are_passed_over(tmp_path: Path) -> None:
    assert read(tmp_path, None, {"required": "x", "..data": "y", ".hidden": "z"}).required == "x"


def test_an_unknown_key_is_named_with_its_path_and_a_suggestion(tmp_path: Path) -> None:
    assert "deep.sise: no such setting; did you mean size?" in problem(tmp_path, "deep: {sise: 1}")
    assert "named.one.prots: no such setting; did you mean ports?" in problem(tmp_path, "named: {one: {prots: []}}")
    text = problem(tmp_path, KEYSTILE_DEEP__SISE="1")
    assert "deep.sise (the variable KEYSTILE_DEEP__SISE): no such setting; did you mean size?" in text
    assert "zzz: no such setting; known here: deep, many, named" in problem(tmp_path, "zzz: 1")


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    text = problem(tmp_path, "deep: {size: 0}\nurl: x\nzzz: 1")
    assert len(text.splitlines()) == 3


def test_a_missing_setting_names_its_variable(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="required: is required; set it in the YAML file or as KEYSTILE_REQUIRED"):
        load(Example, {})


@pytest.mark.parametrize(
    "url", ["http://a.example", "a.example", "https://A.example", "https://u@a.example", "https://a.example?x", " "]
)
def test_a_public_url_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    assert problem(tmp_path, KEYSTILE_URL=url).startswith("url (the variable KEYSTILE_URL): must ")


def test_yaml_that_is_none_is_told_with_its_line(tmp_path: Path) -> None:
    text = problem(tmp_path, "required: x\nsecret-value: [\n")
    assert "is not valid YAML at line 3" in text
    assert "secret-value" not in text


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"text", b"1"])
def test_yaml_that_is_no_map_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "must hold a map of settings" in problem(tmp_path, content.decode())


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    assert "cannot read" in problem(tmp_path, KEYSTILE_CONFIG=str(tmp_path / "missing.yaml"))
    assert "cannot read" in problem(tmp_path, KEYSTILE_SECRETS_DIR=str(tmp_path / "missing"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text" in problem(tmp_path, KEYSTILE_CONFIG=str(tmp_path / "binary.yaml"))
    folder = tmp_path / "binary"
    folder.mkdir()
    (folder / "required").write_bytes(b"\xff\xfe")
    assert "not UTF-8 text" in problem(tmp_path, KEYSTILE_SECRETS_DIR=str(folder))


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, "", KEYSTILE_REQUIRED="x").required == "x"


@pytest.mark.parametrize(
    "environ",
    [
        {"KEYSTILE_DEEP__SECRET__X": "s3cr3t"},
        {"KEYSTILE_DEEP": "s3cr3t"},
        {"KEYSTILE_DEEP": "[s3cr3t"},
        {"KEYSTILE_TRUSTED": "{s3cr3t"},
        {"KEYSTILE_TRUSTED": "s3cr3t"},
        {"KEYSTILE_NAMED": "s3cr3t: ["},
        {"KEYSTILE_SECERT": "s3cr3t"},
        {"KEYSTILE_DEEP__SIZE": "s3cr3t"},
        {"KEYSTILE_DEEP__PORTS": "[s3cr3t]"},
        {"KEYSTILE_URL": "s3cr3t"},
    ],
)
def test_no_value_is_in_a_message(tmp_path: Path, environ: dict[str, str]) -> None:
    text = problem(tmp_path, None, None, **environ)
    assert "s3cr3t" not in text
    assert next(iter(environ)) in text


def test_variables_of_others_are_passed_over(tmp_path: Path) -> None:
    settings = read(tmp_path, KEYSTILE_REQUIRED="x", KEYSTILE_DEMO_PASSWORD="y", KEYSTILE_DATA_DIR="z", PATH="/")
    assert settings.required == "x"
