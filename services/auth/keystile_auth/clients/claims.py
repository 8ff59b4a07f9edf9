"""What every kind of client assertion has in common: a signed JWT that proves a client or says why not."""

from keystile_auth.errors import OAuthError
from keystile_common.jws import JwsError, UnverifiedJwt, parse


def read(assertion: str, algorithms: tuple[str, ...]) -> UnverifiedJwt:
    """An assertion taken apart; nothing in it is true yet.

    Raises:
        OAuthError: `invalid_client`: it is no signed JWT that is accepted here.
    """
    try:
        return parse(assertion, algorithms)
    except JwsError as problem:
        raise refused(str(problem)) from None


def refused(what: str) -> OAuthError:
    """The error for a client assertion that does not prove its client."""
    return OAuthError("invalid_client", f"the client assertion {what}")
