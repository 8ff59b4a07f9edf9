"""The ES256 keys that sign what others check (RFC 7517, RFC 7518 section 3.4), and their life.

`next` is published and signs nothing yet, `current` signs, `retired` stays published until the last token that it
signed has expired. All pods read one document in the store; the order of its states changes in one script there.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import structlog
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc.jwk import ECKey
from prometheus_client import Gauge

from keystile_auth.store.signing_keys import Rotation, SigningKeyStore
from keystile_auth.tokens.master_key import MasterKey, WrongMasterKeyError
from keystile_common import base64url, tasks
from keystile_common.compact_json import to_json_bytes
from keystile_common.jws import LEEWAY_SECONDS
from keystile_common.store import StoreUnavailableError

REREAD_SECONDS = 60
"""No pod signs with a key that it has not looked up for longer."""
PUBLISHED_SECONDS = 900
"""A key is published for so long before it signs: more than any copy of the key set is kept, here or by verifiers."""

_PURPOSE = "signing key encryption"
_SHORTEST_REREAD_SECONDS = 5

_ECDSA = ECDSA(SHA256())
_INTEGER_BYTES = 32

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """A key pair in its state. Times in Unix seconds.

    `not_after` is when a current key is due for rotation, and when a retired one leaves the key set.
    """

    key: ECKey
    state: str
    created: int
    not_after: int | None

    @property
    def kid(self) -> str:
        """Its id, the thumbprint of its public part (RFC 7638)."""
        return str(self.key.kid)

    def sign(self, type_: str, claims: dict[str, Any]) -> str:
        """A JWT of this type and these claims (RFC 7519), in compact serialization (RFC 7515 section 3.1).

        Put together here: what the library does around a signature takes longer than the signature.
        """
        signed = f"{_header(type_, self.kid)}.{base64url.encode(to_json_bytes(claims))}"
        private: Any = self.key.private_key  # there is one: without it this would be no key pair
        # As RFC 7518 section 3.4 has it: the two numbers one behind the other, each of the curve's length.
        r, s = decode_dss_signature(private.sign(signed.encode(), _ECDSA))
        return f"{signed}.{base64url.encode(r.to_bytes(_INTEGER_BYTES) + s.to_bytes(_INTEGER_BYTES))}"

    @property
    def public(self) -> dict[str, Any]:
        """The public JWK, as /jwks shows it."""
        return {**self.key.as_dict(private=False), "use": "sig", "alg": "ES256"}


@lru_cache(16)
def _header(type_: str, kid: str) -> str:
    return base64url.encode(to_json_bytes({"alg": "ES256", "typ": type_, "kid": kid}))


class SigningKeys:
    """The signing keys as the store has them, read again at least every `REREAD_SECONDS` of use.

    Args:
        store: where they are kept.
        master_key: encrypts their private parts.
        rotate_after_seconds: the age at which the current key is due.
        clock: Unix seconds.
        not_after: shows when keys are due; None for a command, which nobody scrapes.
    """

    def __init__(
        self,
        store: SigningKeyStore,
        master_key: MasterKey,
        rotate_after_seconds: int,
        clock: Callable[[], float],
        not_after: Gauge | None = None,
    ) -> None:
        self._store = store
        self._master_key = master_key
        self._rotate_after = rotate_after_seconds
        self._clock = clock
        self._not_after = not_after
        self._keys: list[SigningKey] = []
        self._document = ""
        self._read_at = float("-inf")
        self._lock = asyncio.Lock()
        self._attempts, self._trouble = 0, ""

    async def load(self) -> str | None:
        """Read the keys; on the very first start of all processes, make them.

        Returns:
            The id of the current key where this call made it, else None.

        Raises:
            WrongMasterKeyError: they were encrypted under another master key.
            StoreUnavailableError: the store is away.
        """
        document, made = await self._store.find(), None
        if document is None:
            made = self._first_document()
            document = await self._store.put_first(made)
        if document != self._document:
            stored = json.loads(document)["keys"]
            self._keys, self._document = [self._decrypt(each) for each in stored], document
            self._show()
        self._read_at = self._clock()
        return self._in_state("current")[0].kid if document == made else None

    def all(self) -> list[SigningKey]:
        """Every key that is published: current, next, then those that retired, the newest first."""
        now = self._clock()
        return [key for key in self._keys if key.state != "retired" or (key.not_after or 0) > now]

    async def current(self) -> SigningKey:
        """The key that signs now.

        Raises:
            StoreUnavailableError: it was looked up too long ago, and cannot be now.
        """
        (key,) = self._in_state("current")
        overdue = key.not_after is not None and key.not_after <= self._clock()
        if self._is_older_than(_SHORTEST_REREAD_SECONDS if overdue else REREAD_SECONDS):
            await self._reread()
            (key,) = self._in_state("current")
        return key

    async def published(self) -> list[dict[str, Any]]:
        """The public keys; those known last while the store is away."""
        if self._is_older_than(REREAD_SECONDS):
            with contextlib.suppress(StoreUnavailableError):
                await self._reread()
        return [key.public for key in self.all()]

    async def known_by(self, kid: str | None) -> list[SigningKey]:
        """The keys with this id, looked up anew where none is known: another pod may have seen a rotation first."""
        found = [key for key in self.all() if key.kid == kid]
        if not found and self._is_older_than(_SHORTEST_REREAD_SECONDS):
            await self._reread()
            found = [key for key in self.all() if key.kid == kid]
        return found

    async def rotate(self, *, access_token_seconds: int, force: bool) -> Rotation:
        """Rotate if it is due or forced, once whoever else does the same at this moment.

        Args:
            access_token_seconds: the lifetime of the tokens that the current key signed.
            force: whatever its age.
        """
        retired_seconds = REREAD_SECONDS + access_token_seconds + LEEWAY_SECONDS
        return await self._store.rotate(
            json.dumps(self._new_key()),
            force=force,
            rotate_after=self._rotate_after,
            published_seconds=PUBLISHED_SECONDS,
            retired_seconds=retired_seconds,
        )

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Read them again from time to time while the block runs, so that nobody has to wait for it."""
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            await tasks.end(task)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(REREAD_SECONDS / 2)
            with contextlib.suppress(StoreUnavailableError):
                await self._reread()

    async def _reread(self) -> None:
        before = self._attempts
        async with self._lock:
            # Whoever waited shares what the one before found, trouble too: a store that stands still is asked once.
            if self._attempts == before:
                self._trouble = await self._try_to_load()
                self._attempts += 1
            if self._trouble:
                raise StoreUnavailableError(self._trouble)

    async def _try_to_load(self) -> str:
        try:
            created = await self.load()
        except StoreUnavailableError as problem:
            return str(problem)
        except WrongMasterKeyError:
            _log.error("the signing keys in the store are of another master key; restart with that")
            return "keys.find: of another master key"
        if created:
            _log.error("the signing keys were gone from the store; new ones were made", kid=created)
        return ""

    def _is_older_than(self, seconds: float) -> bool:
        # A clock that was set back must not keep old keys alive.
        return not 0 <= self._clock() - self._read_at < seconds

    def _in_state(self, state: str) -> list[SigningKey]:
        return [key for key in self._keys if key.state == state]

    def _show(self) -> None:
        if self._not_after is None:
            return
        self._not_after.clear()
        for key in reversed(self._keys):  # the newest of those that retired is the last to go
            if key.not_after is not None:
                self._not_after.labels(key.state).set(key.not_after)

    def _first_document(self) -> str:
        now = int(self._clock())
        current = {**self._new_key(), "state": "current", "created": now, "since": now}
        upcoming = {**self._new_key(), "state": "next", "created": now, "from_the_start": True}
        return json.dumps({"keys": [current, upcoming]})

    def _new_key(self) -> dict[str, Any]:
        key = ECKey.generate_key("P-256", auto_kid=True)
        private = json.dumps(key.as_dict(private=True)).encode()
        return {"kid": key.kid, "private": self._master_key.encrypt(_PURPOSE, private)}

    def _decrypt(self, stored: dict[str, Any]) -> SigningKey:
        private = json.loads(self._master_key.decrypt(_PURPOSE, stored["private"]))
        state, created = stored["state"], int(stored["created"])
        not_after: int | None = None
        if state == "current":
            not_after = int(stored.get("since", created)) + self._rotate_after
        elif state == "retired":
            not_after = int(stored["until"])
        return SigningKey(ECKey.import_key(private), state, created, not_after)
