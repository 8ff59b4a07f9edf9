"""Users whom another identity knows, and the sign-ins that are on their way there."""

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass

from keystile_auth.store import scripts
from keystile_auth.store.users import User
from keystile_common.store import Store


@dataclass(frozen=True, slots=True)
class PendingSignIn:
    """A browser that was sent to an identity: which browser, which identity, for which waiting request."""

    browser: str
    identity: str
    request: str | None


class UpstreamStore:
    """Keeps both. Every method raises `StoreUnavailableError` when the store is away."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._put = store.redis.register_script(scripts.read("put_upstream_user"))
        self._recheck = store.redis.register_script(scripts.read("recheck_upstream_user"))
        self._release = store.redis.register_script(scripts.read("release_claim"))

    async def put(self, user: User) -> None:
        """Store a user who has just signed in; `disabled` and `created` of one who is known stay."""
        fields = {"username": user.username, "identity": user.identity, "subject": user.subject, **_heard(user)}
        with self._store.operation("user.put"):
            await self._store.redis.sadd("ks:users", user.sub)
            await self._put(keys=[_user(user.sub)], args=[user.created, *_flat(fields)])

    async def recheck(self, user: User, asked_with: str) -> bool:
        """Store what the identity answered; False when the user signed in anew meanwhile, or is no more.

        Args:
            user: as the identity has it now.
            asked_with: the credential that it was asked with, as it is stored.
        """
        with self._store.operation("user.recheck"):
            return bool(await self._recheck(keys=[_user(user.sub)], args=[asked_with, *_flat(_heard(user))]))

    async def claim(self, sub: str, seconds: int) -> str | None:
        """Become the one who asks about a user, so that no two use one refresh token; answers the claim or None."""
        claim = secrets.token_urlsafe(12)
        with self._store.operation("user.claim"):
            held = await self._store.redis.set(_claim(sub), claim, nx=True, get=True, ex=seconds)
        # It is our own when the answer got lost and the command was sent again.
        return claim if held in {None, claim} else None

    async def release(self, sub: str, claim: str) -> None:
        """Let others ask."""
        with self._store.operation("user.release"):
            await self._release(keys=[_claim(sub)], args=[claim])

    async def put_sign_in(self, state: str, pending: PendingSignIn, seconds: int) -> None:
        """Keep a sign-in by its `state`, of which only the hash is stored."""
        with self._store.operation("sign_in.put"):
            await self._store.redis.set(_state(state), json.dumps(asdict(pending)), ex=seconds)

    async def find_sign_in(self, state: str) -> PendingSignIn | None:
        """The sign-in of this `state`, or None."""
        with self._store.operation("sign_in.find"):
            text = await self._store.redis.get(_state(state))
        return PendingSignIn(**json.loads(text)) if text else None

    async def take_sign_in(self, state: str) -> PendingSignIn | None:
        """As `find_sign_in`, and nobody can take it again."""
        with self._store.operation("sign_in.take"):
            text = await self._store.redis.getdel(_state(state))
        return PendingSignIn(**json.loads(text)) if text else None

    async def put_posted(self, state: str, answer: str, seconds: int) -> None:
        """Keep what an identity posted for a sign-in until its browser comes for it; the last one counts."""
        with self._store.operation("sign_in.put_posted"):
            await self._store.redis.set(_posted(state), answer, ex=seconds)

    async def take_posted(self, state: str) -> str | None:
        """What was posted for a sign-in, once, or None."""
        with self._store.operation("sign_in.take_posted"):
            answer: str | None = await self._store.redis.getdel(_posted(state))
        return answer

    async def use_assertion(self, issuer: str, identifier: str, seconds: int) -> bool:
        """Note an assertion as used, for as long as it holds; False when it was used before.

        Args:
            issuer: whose it is.
            identifier: its ID.
            seconds: until it expires.
        """
        key = hashlib.sha256(json.dumps([issuer, identifier]).encode()).hexdigest()
        ours = secrets.token_urlsafe(12)
        with self._store.operation("assertion.use"):
            held = await self._store.redis.set(f"ks:assertion:{key}", ours, nx=True, get=True, ex=seconds)
        # It is our own when the answer got lost and the command was sent again.
        return held in {None, ours}


def _heard(user: User) -> dict[str, str]:
    groups, checked, until = json.dumps(user.groups), str(user.checked), str(user.until)
    return {"groups": groups, "checked": checked, "credential": user.credential, "until": until}


def _flat(fields: dict[str, str]) -> list[str]:
    return [text for pair in fields.items() for text in pair]


def _user(sub: str) -> str:
    return f"ks:user:{sub}"


def _claim(sub: str) -> str:
    return f"ks:recheck:{sub}"


def _state(state: str) -> str:
    return f"ks:sign-in:{hashlib.sha256(state.encode()).hexdigest()}"


def _posted(state: str) -> str:
    return f"ks:posted:{hashlib.sha256(state.encode()).hexdigest()}"
