"""What every grant answers with."""

from typing import NamedTuple

from keystile_common.compact_json import to_json


class TokenResponse(NamedTuple):
    """A successful answer of the token endpoint (RFC 6749 section 5.1), and what the audit says of it.

    `expires_in` is in seconds. `event` is `issued` or `refreshed`.
    """

    access_token: str
    expires_in: int
    scope: str
    refresh_token: str | None
    sub: str
    resource: str
    grant_id: str
    event: str = "issued"

    def to_json(self) -> str:
        """The body of the answer."""
        # Nothing in a token of ours needs escapes.
        refresh_token = f',"refresh_token":"{self.refresh_token}"' if self.refresh_token else ""
        return (
            f'{{"access_token":"{self.access_token}","token_type":"Bearer","expires_in":{self.expires_in},'
            f'"scope":{to_json(self.scope)}{refresh_token}}}'
        )

    def __repr__(self) -> str:
        return f"TokenResponse(sub={self.sub!r}, resource={self.resource!r}, grant_id={self.grant_id!r})"
