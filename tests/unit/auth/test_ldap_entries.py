"""What is read of a directory's entries and of its refusals; nothing here needs python-ldap."""

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystile_auth.identity.ldap import account
from keystile_auth.identity.ldap.entry import Entry, UnreadableEntryError, subject_value

NOW = 1_800_000_000.0
GUID = uuid.UUID("6f9619ff-8b86-d011-b42d-00c04fc964ff")
# As domain controllers write them, of several versions.
_AD = "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data {}, v4563"
_OLD_AD = "80090308: LdapErr: DSID-0C0903A9, comment: AcceptSecurityContext error, data {}, v1db1\x00"


def entry(**attributes: bytes | list[bytes]) -> Entry:
    return Entry(
        "cn=x",
        {
            name.replace("_", "-").lower(): tuple(value if isinstance(value, list) else [value])
            for name, value in attributes.items()
        },
    )


@pytest.mark.parametrize("template", [_AD, _OLD_AD])
@pytest.mark.parametrize(
    ("code", "reason", "told"),
    [
        ("525", "unknown name", ""),
        ("52e", "wrong password", ""),
        ("52E", "wrong password", ""),
        ("530", "outside of its hours", ""),
        ("531", "not from this machine", ""),
        ("532", "password expired", "your password has expired; change it there first"),
        ("533", "disabled", ""),
        ("701", "account expired", ""),
        ("773", "password must be changed", "your password must be changed there first"),
        ("775", "locked", ""),
        ("80090346", "wrong password, or not to be bound to", ""),
    ],
)
def test_active_directory_s_codes_have_a_reason_and_only_changes_of_passwords_are_told(
    template: str, code: str, reason: str, told: str
) -> None:
    found = account.of_diagnostics(template.format(code))
    assert found == reason
    assert account.refusal(found).sentence == told


@given(st.text())
def test_whatever_a_directory_says_the_reason_is_one_of_ours(message: str) -> None:
    assert account.of_diagnostics(f"data {message}, v1").replace(" ", "").replace(",", "").isalpha()


@pytest.mark.parametrize("message", ["", "Invalid credentials", "database 52e", "data 52", "data 52e52e52e"])
def test_what_is_no_code_is_a_wrong_password(message: str) -> None:
    assert account.of_diagnostics(message) == "wrong password, or not to be bound to"


def test_the_state_that_an_entry_shows_is_for_the_audit_log_alone() -> None:
    refused = account.refusal(account.of_diagnostics(""), "password must be changed")
    assert (refused.reason, refused.sentence) == ("password must be changed", "")
    refused = account.refusal("wrong password", "locked")
    assert (refused.reason, refused.sentence) == ("wrong password", "")


def test_of_a_password_policy_only_what_concerns_signing_in_counts() -> None:
    assert [account.of_policy(error) for error in range(9)] == [
        "password expired", "locked", "password must be changed", *[None] * 6,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("attributes", "state"),
    [
        ({}, None),
        ({"pwdAccountLockedTime": b"000001010000Z"}, "locked"),
        ({"nsAccountLock": b"TRUE"}, "disabled"),
        ({"nsAccountLock": b"false"}, None),
        ({"pwdReset": b"TRUE"}, "password must be changed"),
        ({"pwdReset": b"FALSE"}, None),
    ],
    ids=str,
)
def test_the_state_of_an_account(attributes: Any, state: str | None) -> None:
    assert account.of_entry(entry(**attributes), "ldap", NOW) == state


def _filetime(seconds: float) -> bytes:
    return str(int((seconds + 11_644_473_600) * 10_000_000)).encode()


@pytest.mark.parametrize(
    ("attributes", "state"),
    [
        ({"userAccountControl": b"512"}, None),
        ({"userAccountControl": b"514"}, "disabled"),
        ({"userAccountControl": b"66050"}, "disabled"),
        ({"userAccountControl": b"512", "msDS_User_Account_Control_Computed": b"0"}, None),
        ({"userAccountControl": b"512", "msDS_User_Account_Control_Computed": b"16"}, "locked"),
        ({"userAccountControl": b"512", "msDS_User_Account_Control_Computed": b"8388608"}, "password expired"),
        ({"userAccountControl": b"512", "accountExpires": b"0"}, None),
        ({"userAccountControl": b"512", "accountExpires": b"9223372036854775807"}, None),
        ({"userAccountControl": b"512", "accountExpires": _filetime(NOW - 1)}, "account expired"),
        ({"userAccountControl": b"512", "accountExpires": _filetime(NOW + 1)}, None),
    ],
    ids=str,
)
def test_the_state_of_an_account_of_active_directory(attributes: Any, state: str | None) -> None:
    assert account.of_entry(entry(**attributes), "active_directory", NOW) == state


@pytest.mark.parametrize(
    "attributes",
    [{}, {"userAccountControl": b"enabled"}, {"userAccountControl": b"512", "accountExpires": b"\xff"}],
    ids=str,
)
def test_a_state_that_cannot_be_read_is_no_good_state(attributes: Any) -> None:
    with pytest.raises(UnreadableEntryError):
        account.of_entry(entry(**attributes), "active_directory", NOW)


def test_an_object_guid_is_read_as_microsoft_writes_it_and_found_again_by_its_bytes() -> None:
    assert entry(objectGUID=GUID.bytes_le).subject("objectGUID") == str(GUID)
    assert subject_value("objectGuid", str(GUID)) == GUID.bytes_le
    assert subject_value("objectGUID", "somebody of another directory") is None
    assert subject_value("entryUUID", "some text") == b"some text"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("objectGUID", [b"text"]),
        ("objectGUID", [GUID.bytes_le, GUID.bytes_le]),
        ("objectGUID", []),
        ("employeeNumber", [b"\xff"]),
        ("employeeNumber", [b""]),
        ("employeeNumber", [b"7", b"8"]),
    ],
)
def test_a_subject_is_one_value_that_can_be_read(name: str, value: list[bytes]) -> None:
    with pytest.raises(UnreadableEntryError, match=f"subject_attribute: {name}"):
        entry(**{name: value}).subject(name)


def test_values_that_are_no_text_are_left_out_and_pieces_of_long_ones_are_read() -> None:
    found = Entry("cn=x", {"memberof;range=0-1499": (b"cn=a", b"\xff"), "cn": (b"b",)})
    assert found.texts("memberOf") == ("cn=a",)
    assert found.text("cn") == "b"
    assert found.text("sn") == ""
