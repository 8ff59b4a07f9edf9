"""The one error that carries a protocol's error code; raised deep, rendered once by an endpoint."""

from http import HTTPStatus
from typing import Final

from keystile_common.health import RETRY_AFTER_SECONDS

_STATUS: Final = {
    "invalid_client": HTTPStatus.UNAUTHORIZED,
    "invalid_token": HTTPStatus.UNAUTHORIZED,
    "slow_down": HTTPStatus.TOO_MANY_REQUESTS,
    "temporarily_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
}


class OAuthError(Exception):
    """A request that cannot be served, as RFC 6749 section 5.2 says it.

    Args:
        code: the registered error code, such as `invalid_grant`.
        description: one sentence for the developer of the client: what is wrong and what to change. ASCII
            without quotes and backslashes (RFC 6749 allows no others), and never a secret.
        retry_after: seconds after which another try makes sense.
    """

    def __init__(self, code: str, description: str, *, retry_after: int | None = None) -> None:
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = "".join(c if " " <= c <= "~" and c not in '"\\' else "?" for c in description)
        self.retry_after = retry_after

    def withhold(self) -> None:
        """Say 503 and no more: what the error would tell of was done, but may still be lost."""
        self.code = "temporarily_unavailable"
        self.description = "the server's store did not confirm the change; try again"
        self.retry_after = RETRY_AFTER_SECONDS

    @property
    def status(self) -> HTTPStatus:
        """The HTTP status that belongs to the code."""
        return _STATUS.get(self.code, HTTPStatus.BAD_REQUEST)


class RateLimitedError(OAuthError):
    """Too many requests of this kind from this place."""

    def __init__(self, endpoint: str, retry_after: int) -> None:
        super().__init__("slow_down", f"too many requests; try again in {retry_after} seconds", retry_after=retry_after)
        self.endpoint = endpoint
