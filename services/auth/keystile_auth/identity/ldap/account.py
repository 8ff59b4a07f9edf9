"""The state of an account: what a directory says when it refuses a bind, and what it says of one without a bind.

What somebody without the password could learn must not be shown, so most of it is for the audit log alone.
"""

import re

from keystile_auth.identity.answer import SignInRefusedError
from keystile_auth.identity.ldap.entry import Entry, UnreadableEntryError

PASSWORD_EXPIRED = "password expired"
PASSWORD_MUST_BE_CHANGED = "password must be changed"
# Active Directory gives its reasons as Windows error codes, hexadecimal, in the diagnostic message ([MS-ERREF] 2.2).
_CODES = {
    "525": "unknown name",
    "52e": "wrong password",
    "530": "outside of its hours",
    "531": "not from this machine",
    "532": PASSWORD_EXPIRED,
    "533": "disabled",
    "701": "account expired",
    "773": PASSWORD_MUST_BE_CHANGED,
    "775": "locked",
}
_REFUSED = "wrong password, or not to be bound to"
_CODE = re.compile(r"\bdata ([0-9a-f]{3,8})\b", re.IGNORECASE)
# draft-behera-ldap-password-policy-10 section 6.2.
_POLICY_ERRORS = {0: PASSWORD_EXPIRED, 1: "locked", 2: PASSWORD_MUST_BE_CHANGED}
# Both are said by directories only to who has the right password.
_TOLD = {
    PASSWORD_EXPIRED: "your password has expired; change it there first",
    PASSWORD_MUST_BE_CHANGED: "your password must be changed there first",
}
# userAccountControl and msDS-User-Account-Control-Computed, [MS-ADTS] 2.2.16 and 3.1.1.4.5.17.
_BITS = {0x2: "disabled", 0x10: "locked", 0x80_0000: PASSWORD_EXPIRED}
_NEVER = {0, 0x7FFF_FFFF_FFFF_FFFF}
_SECONDS_1601_TO_1970 = 11_644_473_600
_TICKS = 10_000_000

ATTRIBUTES = {
    "ldap": ("pwdAccountLockedTime", "pwdReset", "nsAccountLock"),
    "active_directory": ("userAccountControl", "msDS-User-Account-Control-Computed", "accountExpires"),
}
"""What is read of an account's state, by directory."""


def of_diagnostics(message: str) -> str:
    """Why a directory refused a bind, in a few words of our own; only Active Directory says more than that it did."""
    found = _CODE.search(message)
    return _CODES.get(found[1].lower(), _REFUSED) if found else _REFUSED


def of_policy(error: int) -> str | None:
    """Why a password policy refuses a bind; None for what concerns changes of passwords."""
    return _POLICY_ERRORS.get(error)


def refusal(reason: str, seen: str | None = None) -> SignInRefusedError:
    """The refusal for a reason; its sentence is empty where the person must not be told.

    Args:
        reason: what the directory said.
        seen: the state that the entry shows. It is for the audit log alone: the password may be wrong as well.
    """
    return SignInRefusedError(seen if seen and reason == _REFUSED else reason, _TOLD.get(reason, ""))


def of_entry(entry: Entry, directory: str, now: float) -> str | None:
    """Why the account could not be signed in to, as far as it shows without a password; None where nothing does.

    Args:
        entry: of the person, with `ATTRIBUTES`.
        directory: as in the settings.
        now: Unix seconds.

    Raises:
        UnreadableEntryError: it does not show.
    """
    if directory == "active_directory":
        return _of_active_directory(entry, now)
    # The value says since when; until when, the entry does not know.
    if entry.values("pwdAccountLockedTime"):
        return "locked"
    if entry.text("nsAccountLock").upper() == "TRUE":
        return "disabled"
    return PASSWORD_MUST_BE_CHANGED if entry.text("pwdReset").upper() == "TRUE" else None


def _of_active_directory(entry: Entry, now: float) -> str | None:
    control = entry.number("userAccountControl")
    if control is None:
        raise UnreadableEntryError("userAccountControl is not shown to bind_dn, so disabled accounts cannot be told")
    control |= entry.number("msDS-User-Account-Control-Computed") or 0
    for bit, reason in _BITS.items():
        if control & bit:
            return reason
    expires = entry.number("accountExpires") or 0
    if expires not in _NEVER and expires / _TICKS - _SECONDS_1601_TO_1970 <= now:
        return "account expired"
    return None
