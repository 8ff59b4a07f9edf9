"""The names of security events that both services know (RFC 8417 section 2.2, OpenID CAEP and Shared Signals)."""

from typing import Final

TYPE: Final = "secevent+jwt"
"""The media type of a security event token, without `application/`."""

TOKEN_REVOKED: Final = "https://schemas.openid.net/secevent/oauth/event-type/token-revoked"
SESSION_REVOKED: Final = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
VERIFICATION: Final = "https://schemas.openid.net/secevent/ssf/event-type/verification"

# Of OpenID RISC: all that a person has here has died.
ACCOUNT_DISABLED: Final = "https://schemas.openid.net/secevent/risc/event-type/account-disabled"
ACCOUNT_PURGED: Final = "https://schemas.openid.net/secevent/risc/event-type/account-purged"
SESSIONS_REVOKED: Final = "https://schemas.openid.net/secevent/risc/event-type/sessions-revoked"
