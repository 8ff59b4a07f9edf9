"""Grants, their codes, refresh families and access tokens: one JSON document a grant, one script a change."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from keystile_auth.store import scripts
from keystile_auth.store.access_token_cache import AccessTokenCache
from keystile_auth.store.revocations import STREAM, RevocationStore
from keystile_auth.store.stored_access_token import StoredAccessToken
from keystile_common.store import Store, StoreUnavailableError

KEYS_OF_GRANTS = "ks:{"
"""How the keys of grants and their access tokens begin, and no others."""
TOMBSTONE_MS = 600_000
"""How long an ended or never redeemed grant is remembered, so that a replay is told from junk."""
_LISTED_LONGER = 10
"""Lists have a grant for a tenth of its life more than it lives."""
_BATCH = 200
_AT_ONCE = 16  # of the store's 64 connections; others have requests too


@dataclass(frozen=True, slots=True)
class Code:
    """What an authorization code is bound to (RFC 7636 section 4.4, RFC 6749 section 4.1.3)."""

    hash: str
    challenge: str
    redirect_uri: str
    redeemed: bool


@dataclass(frozen=True, slots=True)
class Grant:
    """A user's grant to a client for one resource, as the store holds it. Times in Unix milliseconds."""

    id: str
    state: str
    sub: str
    client_id: str
    resource: str
    scopes: tuple[str, ...]
    created: int
    used: int | None
    code: Code
    has_refresh_token: bool

    @property
    def is_live(self) -> bool:
        """Whether its code was redeemed and nothing has ended it."""
        return self.state == "live"

    @property
    def is_ended(self) -> bool:
        """Whether something has ended it; what is left is its tombstone."""
        return self.state == "ended"


@dataclass(frozen=True, slots=True)
class NewAccessToken:
    """An access token about to be stored: hash, lifetime in seconds, audience, introspection answer.

    The answer is JSON without the closing brace; the script adds `iat`, `nbf` and `exp` by the store's clock.
    """

    hash: str
    seconds: int
    audience: str
    opening: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an issue, redemption or rotation came to: the script's word, and what holds for the access token.

    That is the seconds it has left, when it expires (Unix seconds by the store's clock), and its scope.
    """

    word: str
    seconds: int = 0
    expires: int = 0
    scope: str = ""


class GrantStore:
    """All that is stored about grants. Every method raises `StoreUnavailableError` when the store is away.

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
        register = store.redis.register_script
        self._create = register(scripts.read_for_grant("create_grant"))
        self._put_into_list = register(scripts.read_for_grant("list_grant"))
        self._redeem = register(scripts.read_for_grant("redeem_code"))
        self._rotate = register(scripts.read_for_grant("rotate_refresh_token"))
        self._issue = register(scripts.read_for_grant("issue_access_token"))
        self._end = register(scripts.read_for_grant("end_grant"))
        self._revoke = register(scripts.read_for_grant("revoke_access_token"))

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
            await self._create(keys=[_key(grant_id)], args=args)

    async def find(self, grant_id: str) -> Grant | None:
        """The grant of this id, live or not, or None."""
        with self._store.operation("grant.find"):
            text = await self._store.redis.get(_key(grant_id))
        return _grant(grant_id, json.loads(text)) if text else None

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
        """Redeem a code; see `redeem_code.lua`. `seconds` is how long the grant lives unused."""
        with self._store.operation("grant.redeem"):
            answer = await self._redeem(
                keys=[_key(grant_id), *self._stream],
                args=[
                    code_hash, attempt, access.hash, access.seconds, access.audience, access.opening,
                    refresh_hash, seconds * 1000, TOMBSTONE_MS,
                ],
            )  # fmt: skip
        word, *rest = answer
        if word == "reused":
            await self._announce_end(grant_id)
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
        """Rotate a refresh token; see `rotate_refresh_token.lua`."""
        with self._store.operation("grant.rotate"):
            answer = await self._rotate(
                keys=[_key(grant_id), *self._stream],
                args=[
                    presented_hash, generation, attempt, successor_hash, access.hash, access.seconds,
                    access.audience, access.opening, scope, seconds * 1000, grace_seconds * 1000, TOMBSTONE_MS,
                ],
            )  # fmt: skip
        word, *rest = answer
        if word == "reused":
            await self._announce_end(grant_id)
        return Outcome(word, int(rest[0]), int(rest[1]), rest[2]) if rest else Outcome(word)

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
            keys, listing = [_key(grant_id)], _listing_of_client(client_id)
            member, listed = f"{grant_id}:{access.hash}", _listed_ms(access.seconds)
            if self._store.is_cluster:
                await self._put_into_list(keys=[listing], args=[member, listed])
            else:
                keys.append(listing)
            args = [access.hash, access.seconds, access.audience, access.opening, member, listed]
            expires = await self._issue(keys=keys, args=args)
        return Outcome("issued", access.seconds, int(expires), scope)

    async def find_access_token(self, grant_id: str, token_hash: str) -> StoredAccessToken | None:
        """The access token of this hash while it lives, in one GET, or none where it is in memory."""
        key = f"{_key(grant_id)}:a:{token_hash}"
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
        with self._store.operation("token.revoke"):
            revoked = bool(await self._revoke(keys=[_key(grant_id), *self._stream], args=[token_hash]))
        if found is not None:
            await self._revocations.append(found.audience, "token", json.loads(found.answer).get("jti", token_hash))
        return revoked

    async def end(self, grant_id: str, reason: str) -> bool:
        """End a grant with all its tokens; False when it was not alive."""
        with self._store.operation("grant.end"):
            args = [reason, TOMBSTONE_MS, secrets.token_urlsafe(12)]
            ended = bool(await self._end(keys=[_key(grant_id), *self._stream], args=args))
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
        return [grant for grant in await self.not_ended_of_user(sub) if grant.is_live]

    async def not_ended_of_user(self, sub: str) -> list[Grant]:
        """As `of_user`, and those whose code nobody has redeemed yet."""
        found = {grant.id: grant async for grant in self._grants(_listing_of_user(sub))}
        return sorted((grant for grant in found.values() if not grant.is_ended), key=lambda grant: grant.created)

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


def _key(grant_id: str) -> str:
    return f"ks:{{{grant_id}}}"


def _listing_of_client(client_id: str) -> str:
    return f"ks:grants:client:{client_id}"


def _listing_of_user(sub: str) -> str:
    return f"ks:grants:user:{sub}"


def _listed_ms(seconds: int) -> int:
    """How long a list has what lives so long: its tombstone too."""
    return seconds * 1000 + TOMBSTONE_MS


def _grant(grant_id: str, document: dict[str, Any]) -> Grant:
    code = document["code"]
    return Grant(
        id=grant_id,
        state=document["state"],
        sub=document["sub"],
        client_id=document["client_id"],
        resource=document["resource"],
        scopes=tuple(document["scopes"].split()),
        created=int(document["created"]),
        used=int(document["used"]) if "used" in document else None,
        code=Code(code["hash"], code["challenge"], code["redirect_uri"], "attempt" in code),
        has_refresh_token="refresh" in document,
    )
