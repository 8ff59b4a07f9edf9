"""Sign-ins that are on their way at another server: one browser each, once, for a few minutes."""

import secrets

from keystile_auth.identity.attempt import Attempt
from keystile_auth.store.upstream import PendingSignIn, UpstreamStore
from keystile_auth.tokens.master_key import MasterKey, WrongMasterKeyError
from keystile_common import base64url

_MAX_STATE_CHARACTERS = 64
_POSTED_SECONDS = 60


class PendingSignIns:
    """Makes them, keeps them and takes them back.

    Args:
        store: where they are kept.
        master_key: what a nonce and a code verifier are made with.
        seconds: how long one may take.
    """

    def __init__(self, store: UpstreamStore, master_key: MasterKey, seconds: int) -> None:
        self._store = store
        self._master_key = master_key
        self._seconds = seconds

    def new(self) -> Attempt:
        """A new one, whose `state` cannot be guessed: 256 bits. Nothing is stored."""
        return self.of(secrets.token_urlsafe(32))

    def of(self, state: str) -> Attempt:
        """The one of a `state`.

        The rest is made from it, and only the browser has it: a copy of the store is of no use to finish a sign-in.
        """
        return Attempt(state, self._made_from(state, "nonce"), self._made_from(state, "code verifier"))

    async def keep(self, attempt: Attempt, browser: str, identity: str, request: str | None) -> None:
        """Store one.

        Args:
            attempt: which.
            browser: the id of the browser that begins it.
            identity: where it leads.
            request: the id of the authorization request that waits for it.
        """
        await self._store.put_sign_in(attempt.state, PendingSignIn(browser, identity, request), self._seconds)

    async def awaits(self, state: str, identity: str) -> bool:
        """Whether a sign-in of this `state` is on its way at `identity`, in whatever browser."""
        if not 0 < len(state) <= _MAX_STATE_CHARACTERS:
            return False
        found = await self._store.find_sign_in(state)
        return found is not None and found.identity == identity

    async def put_posted(self, state: str, answer: str) -> None:
        """Keep what an identity posted for a sign-in, encrypted, until the browser comes for it."""
        sealed = self._master_key.encrypt(f"posted answer {state}", answer.encode())
        await self._store.put_posted(state, sealed, _POSTED_SECONDS)

    async def take_posted(self, state: str) -> str | None:
        """What was posted for a sign-in, once, or None."""
        sealed = await self._store.take_posted(state)
        try:
            return self._master_key.decrypt(f"posted answer {state}", sealed).decode() if sealed else None
        except (WrongMasterKeyError, ValueError):
            return None

    async def take(self, state: str, browser: str, identity: str) -> PendingSignIn | None:
        """The one of a `state`, once, in the browser that began it, from the identity it was for; else None."""
        if not 0 < len(state) <= _MAX_STATE_CHARACTERS:
            return None
        found = await self._store.find_sign_in(state)
        # Another browser does not use it up: whoever it belongs to can still come back.
        if found is None or not secrets.compare_digest(found.browser, browser) or found.identity != identity:
            return None
        return await self._store.take_sign_in(state)

    def _made_from(self, state: str, purpose: str) -> str:
        digest = self._master_key.mac(f"upstream {purpose}", state.encode())
        return base64url.encode(digest)
