"""The resource owner behind a grant: whoever consented must still be somebody who can sign in."""

import contextlib

from keystile_auth.errors import OAuthError
from keystile_auth.identity.answer import IdentityGoneError, SignInAgainError
from keystile_auth.identity.directory import Identities
from keystile_auth.store.grant import Grant
from keystile_auth.store.grants import GrantStore
from keystile_auth.store.held_grants import HeldGrant
from keystile_auth.store.users import User
from keystile_common.store import StoreUndurableError, every_step


class UserGoneError(OAuthError):
    """The identity no longer stands by the user; every grant of the user was ended."""

    def __init__(self, grant: Grant, ended: int, *, is_durable: bool = True) -> None:
        super().__init__("invalid_grant", "the account is gone or disabled where the user signed in")
        if not is_durable:
            self.withhold()
        self.grant = grant
        self.ended = ended


class ResourceOwners:
    """Asks the identities about the users of grants."""

    def __init__(self, identities: Identities, grants: GrantStore) -> None:
        self._identities = identities
        self._grants = grants

    async def of(self, held: HeldGrant) -> User:
        """The user of a grant, as the identity has the user now.

        Raises:
            UserGoneError: the account is gone or disabled there.
            OAuthError: `invalid_grant`: it is so here, or the user has to sign in again.
            IdentityUnavailableError: the identity does not answer.
        """
        user = held.user
        if user is None or user.disabled:
            raise OAuthError("invalid_grant", "the user can no longer sign in")
        try:
            return await self._identities.confirm(user)
        except SignInAgainError:
            raise OAuthError("invalid_grant", "the user must sign in again") from None
        except IdentityGoneError:
            ended, is_durable = 0, False
            with contextlib.suppress(StoreUndurableError):
                with every_step("grant.end"):
                    ended = await self._grants.end_all_of_user(held.grant.sub, "identity")
                is_durable = True
            raise UserGoneError(held.grant, ended, is_durable=is_durable) from None
