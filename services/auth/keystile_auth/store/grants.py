"""Grants, their codes, refresh families and access tokens: one JSON document a grant, one script a change."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from keystile_auth.store import scripts
from keystile_auth.store.access_token_cache import AccessTokenCache
from keystile_auth.store.grant import Code, Grant, NewAccessToken, Outcome, read_grant
from keystile_auth.store.revocations import STREAM, RevocationStore
from keystile_auth.store.stored_access_token import StoredAccessToken
from keystile_common.store import Store, StoreUnavailableError, StoreUndurableError, every_step

KEYS_OF_GRANTS = "ks:{"
"""How the keys of grants and their access tokens begin, and no others."""
TOMBSTONE_MS = 600_000
"""How long an ended or never redeemed grant is remembered, so that a replay is told from junk."""
_LISTED_LONGER = 10
"""Lists have a grant for a tenth of its life more than it lives."""
_BATCH = 200
_AT_ONCE = 16  # of the store's 64 connections; others have requests too


class GrantStore:
    """All that is stored about grants. Every method raises `StoreUnavailableError` when the store is away.

    What redeems, rotates, revokes or ends raises `StoreUndurableError`, which is one, where it was done but the store
    has not confirmed it as `store.durability` asks; the same again is safe.

    Args:
        store: where it is.
        cache: of access tokens; None where every one is looked up.
        clock: Unix seconds, for what a difference of minutes to the store's does not decide.
    """

    def __init__(
        self, store: Store, cache: AccessTokenCache | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._clock = clock
        self._cache = cache
        self._revocations = RevocationStore(store)
        # A cluster has it in another slot than the grant.
        self._stream = [] if store.is_cluster else [STREAM]
        register, register_durable = store.redis.register_script, store.durable.register_script
        # While an answer may still be withheld, the store must know that nobody has it.
        self._unanswered = "1" if store.promises else ""
        self._create = register(scripts.read_for_grant("create_grant"))
        self._put_into_list = register(scripts.read_for_grant("list_grant"))
        self._redeem = register_durable(scripts.read_for_grant("redeem_code"))
        self._rotate = register_durable(scripts.read_for_grant("rotate_refresh_token"))
        self._issue = register(scripts.read_for_grant("issue_access_token"))
        self._answer = register(scripts.read_for_grant("answer_token_request"))
        self._end = register_durable(scripts.read_for_grant("end_grant"))
        self._revoke = register_durable(scripts.read_for_grant("revoke_access_token"))

    async def create(
        self,
        grant_id: str,
        *,
        sub: str,
        client_id: str,
        resource: str,
        scopes: tuple[str, ...],
        code: Code,
        code_seconds: int,
        index_seconds: int,
    ) -> None:
        """Store a grant whose code waits to be redeemed.

        It is listed under its user and client first: a grant that no list has could not be ended by them.
        """
        with self._store.operation("grant.create"):
            await self._list(grant_id, client_id, sub, index_seconds)
            document = {
                "state": "code",
                "sub": sub,
                "client_id": client_id,
                "resource": resource,
                "scopes": " ".join(scopes),
                "code": {"hash": code.hash, "challenge": code.challenge, "redirect_uri": code.redirect_uri},
                "access_tokens": {},
            }
            args = [json.dumps(document), code_seconds * 1000, TOMBSTONE_MS]
            await self._create(keys=[key_of_grant(grant_id)], args=args)

    async def find(self, grant_id: str) -> Grant | None:
        """The grant of this id, live or not, or None."""
        with self._store.operation("grant.find"):
            text = await self._store.redis.get(key_of_grant(grant_id))
        return read_grant(grant_id, text) if text else None

    async def redeem(
        self,
        grant_id: str,
        code_hash: str,
        attempt: str,
        access: NewAccessToken,
        scope: str,
        refresh_hash: str,
        seconds: int,
    ) -> Outcome:
        """Redeem a code; see `redeem_code.lua`. `seconds` is how long the grant lives unused.

        Before the tokens are given out, `answer_code` has to agree.
        """
        args = [
            code_hash, attempt, access.hash, access.seconds, access.audience, access.opening,
            refresh_hash, seconds * 1000, TOMBSTONE_MS, self._unanswered,
        ]  # fmt: skip
        word, *rest = await self._decide("grant.redeem", self._redeem, grant_id, args)
        if word == "reused":
            return await self._reused(grant_id, *rest)
        return Outcome(word, int(rest[0]), int(rest[1]), scope) if rest else Outcome(word)

    async def rotate(
        self,
        grant_id: str,
        presented_hash: str,
        generation: int,
        attempt: str,
        successor_hash: str,
        access: NewAccessToken,
        scope: str,
        seconds: int,
        grace_seconds: int,
    ) -> Outcome:
        """Rotate a refresh token; see `rotate_refresh_token.lua`.

        Before the successor is given out, `answer_refresh_token` has to agree.
        """
        args = [
            presented_hash, generation, attempt, successor_hash, access.hash, access.seconds, access.audience,
            access.opening, scope, seconds * 1000, grace_seconds * 1000, TOMBSTONE_MS, self._unanswered,
        ]  # fmt: skip
        word, *rest = await self._decide("grant.rotate", self._rotate, grant_id, args)
        if word == "reused":
            return await self._reused(grant_id, *rest)
        return Outcome(word, int(rest[0]), int(rest[1]), rest[2]) if rest else Outcome(word)

    async def _decide(self, operation: str, script: Any, grant_id: str, args: list[Any]) -> list[Any]:
        """What a script says of a code or refresh token; `["reused", False]` where that is not durable."""
        try:
            with self._store.operation(operation):
                answer: list[Any] = await script(keys=[key_of_grant(grant_id), *self._stream], args=args)
        except StoreUndurableError as problem:
            if problem.answer[0] != "reused":
                raise
            return ["reused", False]  # somebody has to be told of it, whatever becomes of the store
        return answer

    async def _reused(self, grant_id: str, is_durable: bool = True) -> Outcome:
        await self._announce_end(grant_id)
        return Outcome("reused", is_durable=is_durable)

    async def answer_code(self, grant_id: str, attempt: str) -> bool:
        """Note that the tokens of a redemption are given out; False when the grant has ended meanwhile.

        Raises:
            StoreUnavailableError: that cannot be noted, or another request redeemed the code meanwhile, so that these
                tokens are dead.
        """
        return await self._note_answer(grant_id, attempt, "", 0)

    async def answer_refresh_token(self, grant_id: str, attempt: str, presented_hash: str, grace_seconds: int) -> bool:
        """The same for the successor of a refresh token; of several that ask at once, one alone without a grace."""
        return await self._note_answer(grant_id, attempt, presented_hash, grace_seconds)

    async def _note_answer(self, grant_id: str, attempt: str, presented_hash: str, grace_seconds: int) -> bool:
        if not self._store.promises:
            return True
        with self._store.operation("grant.answer"):
            word: str = await self._answer(
                keys=[key_of_grant(grant_id)], args=[attempt, presented_hash, grace_seconds * 1000]
            )
        if word == "superseded":
            raise StoreUnavailableError("grant.answer: superseded")
        return word == "answered"

    async def relist(self, grant: Grant, index_seconds: int) -> None:
        """Keep a grant that is about to live on in the lists of its user and client.

        They have it for longer than it lives, so that this is to be written once in that much time, and not each time:
        before the first change in every window of it. Where that fails, nothing has changed yet.

        Args:
            grant: as it was before the change.
            index_seconds: how long it will live from now.
        """
        window = index_seconds // _LISTED_LONGER
        if window and grant.used is not None and grant.used // 1000 // window == int(self._clock()) // window:
            return
        with self._store.operation("grant.relist"):
            await self._list(grant.id, grant.client_id, grant.sub, index_seconds)

    async def issue(self, grant_id: str, client_id: str, access: NewAccessToken, scope: str) -> Outcome:
        """Store an access token without a family."""
        with self._store.operation("token.issue"):
            keys, listing = [key_of_grant(grant_id)], _listing_of_client(client_id)
            member, listed = f"{grant_id}:{access.hash}", _listed_ms(access.seconds)
            if self._store.is_cluster:
                await self._put_into_list(keys=[listing], args=[member, listed])
            else:
                keys.append(listing)
            args = [access.hash, access.seconds, access.audience, access.opening, member, listed]
            expires = await self._issue(keys=keys, args=args)
        return Outcome("issued", access.seconds, int(expires), scope)

    def kept_access_token(self, grant_id: str, token_hash: str) -> StoredAccessToken | None:
        """The access token of this hash, if it is in memory and known to live; None says nothing."""
        return self._cache.find(_access_token_key(grant_id, token_hash).encode()) if self._cache is not None else None

    async def find_access_token(self, grant_id: str, token_hash: str) -> StoredAccessToken | None:
        """The access token of this hash while it lives, in one GET, or none where it is in memory."""
        key = _access_token_key(grant_id, token_hash)
        if self._cache is None:
            return await self._read_access_token(key)
        name = key.encode()
        kept = self._cache.find(name)
        if kept is not None:
            return kept
        with self._cache.reading(name) as reading:
            token = await self._read_access_token(key)
            if token is not None:
                self._cache.keep(name, token, reading)
            return token

    async def _read_access_token(self, key: str) -> StoredAccessToken | None:
        with self._store.operation("token.find"):
            value: str | None = await self._store.redis.get(key)
        return StoredAccessToken.from_text(value) if value is not None else None

    async def revoke_access_token(self, grant_id: str, token_hash: str) -> bool:
        """Revoke one access token; False when it was not alive."""
        found = await self.find_access_token(grant_id, token_hash) if self._store.is_cluster else None
        with every_step("token.revoke"):
            with self._store.operation("token.revoke"):
                revoked = bool(await self._revoke(keys=[key_of_grant(grant_id), *self._stream], args=[token_hash]))
            if found is not None:
                await self._revocations.append(found.audience, "token", json.loads(found.answer).get("jti", token_hash))
        return revoked

    async def confirm(self, grant_id: str) -> None:
        """Return once what was revoked before of this grant is as durable as it is to be."""
        await self._store.confirm(key_of_grant(grant_id))

    async def end(self, grant_id: str, reason: str) -> bool:
        """End a grant with all its tokens; False when it was not alive."""
        args = [reason, TOMBSTONE_MS, secrets.token_urlsafe(12)]
        with every_step("grant.end"):
            with self._store.operation("grant.end"):
                ended = bool(await self._end(keys=[key_of_grant(grant_id), *self._stream], args=args))
            await self._announce_end(grant_id)
        return ended

    async def _announce_end(self, grant_id: str) -> None:
        """Tell of a grant's end where its script could not; again for one that had ended, since that may be missing."""
        if not self._store.is_cluster:
            return
        # What is done is done: that it could not be told is no failure of it.
        with contextlib.suppress(StoreUnavailableError):
            grant = await self.find(grant_id)
            if grant is not None and grant.is_ended and grant.code.redeemed:
                await self._revocations.append(grant.resource, "grant", grant.id)

    async def of_user(self, sub: str) -> list[Grant]:
        """A user's live grants, oldest first."""
        return [grant for grant in await self.all_of_user(sub) if grant.is_live]

    async def all_of_user(self, sub: str) -> list[Grant]:
        """As `of_user`, and those whose code nobody has redeemed yet, and those that ended lately."""
        found = {grant.id: grant async for grant in self._grants(_listing_of_user(sub))}
        return sorted(found.values(), key=lambda grant: grant.created)

    async def end_all_of_user(self, sub: str, reason: str) -> int:
        """End every grant of a user, codes not yet redeemed too; answers how many lived."""
        return await self._end_all(_listing_of_user(sub), reason)

    async def end_all_of_client(self, client_id: str, reason: str) -> int:
        """End every grant of a client and every token it got for itself; answers how many lived."""
        return await self._end_all(_listing_of_client(client_id), reason)

    async def _end_all(self, listing: str, reason: str) -> int:
        ended = 0
        async for members in self._batches(listing):
            for start in range(0, len(members), _AT_ONCE):
                work = (self._end_one(each, reason) for each in members[start : start + _AT_ONCE])
                outcomes = await asyncio.gather(*work, return_exceptions=True)
                ended += sum(outcome is True for outcome in outcomes)
                # All of them first: where a part of the store is away, the rest must not live on for it.
                for outcome in outcomes:
                    if isinstance(outcome, BaseException):
                        raise outcome
        return ended

    async def _end_one(self, member: str, reason: str) -> bool:
        grant_id, _, token_hash = member.partition(":")
        if token_hash:
            return await self.revoke_access_token(grant_id, token_hash)
        return await self.end(grant_id, reason)

    async def _grants(self, listing: str) -> AsyncIterator[Grant]:
        async for members in self._batches(listing):
            for member in members:
                grant = await self.find(member)
                if grant is not None:
                    yield grant

    async def _batches(self, listing: str) -> AsyncIterator[list[str]]:
        # By cursor, not by rank: members that expire meanwhile would move others past us. One may come twice.
        cursor = 0
        while True:
            with self._store.operation("grant.list"):
                cursor, batch = await self._store.redis.zscan(listing, cursor, count=_BATCH)
            yield [member for member, _ in batch]
            if cursor == 0:
                return

    async def _list(self, member: str, client_id: str, sub: str, seconds: int) -> None:
        listings = [_listing_of_client(client_id), _listing_of_user(sub)]
        args = [member, _listed_ms(seconds + seconds // _LISTED_LONGER)]
        written = (self._put_into_list(keys=[listing], args=args) for listing in listings)
        # Both are waited for: what fails must not leave the other one under way.
        for outcome in await asyncio.gather(*written, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome


def key_of_grant(grant_id: str) -> str:
    """Where a grant is stored."""
    return f"ks:{{{grant_id}}}"


def _access_token_key(grant_id: str, token_hash: str) -> str:
    return f"ks:{{{grant_id}}}:a:{token_hash}"


def _listing_of_client(client_id: str) -> str:
    return f"ks:grants:client:{client_id}"


def _listing_of_user(sub: str) -> str:
    return f"ks:grants:user:{sub}"


def _listed_ms(seconds: int) -> int:
    """How long a list has what lives so long: its tombstone too."""
    return seconds * 1000 + TOMBSTONE_MS
