"""Grants with who holds and who gave them: all that a token request has to know, in one look-up."""

from typing import Any, NamedTuple

from keystile_auth.store import scripts
from keystile_auth.store.clients import KEYS_OF_CLIENTS, ClientStore
from keystile_auth.store.grant import Grant, read_grant
from keystile_auth.store.grants import GrantStore, key_of_grant
from keystile_auth.store.users import KEYS_OF_USERS, User, UserStore, read_user
from keystile_common.store import Store


class HeldGrant(NamedTuple):
    """A grant, the stored document of the client that holds it, and the user who gave it; None for one that is gone."""

    grant: Grant
    client: str | None
    user: User | None

    def __repr__(self) -> str:
        return f"HeldGrant(grant_id={self.grant.id!r})"


class HeldGrants:
    """Finds grants with their parties. Raises `StoreUnavailableError` when the store is away."""

    def __init__(self, store: Store, grants: GrantStore, clients: ClientStore, users: UserStore) -> None:
        self._store = store
        self._grants = grants
        self._clients = clients
        self._users = users
        self._find = store.redis.register_script(scripts.read("find_held_grant"))

    async def find(self, grant_id: str) -> HeldGrant | None:
        """The grant of this id, live or not, and its parties; or None."""
        if self._store.is_cluster:  # has the three in different slots
            return await self._find_in_cluster(grant_id)
        with self._store.operation("grant.find"):
            answer: list[Any] | None = await self._find(
                keys=[key_of_grant(grant_id)], args=[KEYS_OF_CLIENTS, KEYS_OF_USERS]
            )
        if answer is None:
            return None
        text, client, pairs = answer
        grant = read_grant(grant_id, text)
        fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
        return HeldGrant(grant, client, read_user(grant.sub, fields))

    async def _find_in_cluster(self, grant_id: str) -> HeldGrant | None:
        grant = await self._grants.find(grant_id)
        if grant is None:
            return None
        return HeldGrant(grant, await self._clients.find(grant.client_id), await self._users.find(grant.sub))
