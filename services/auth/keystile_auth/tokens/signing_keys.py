"""The ES256 keys that sign what others check (RFC 7517, RFC 7518 section 3.4)."""

import json
from dataclasses import dataclass
from typing import Any

from joserfc.jwk import ECKey

from keystile_auth.store.signing_keys import SigningKeyStore
from keystile_auth.tokens.master_key import MasterKey

_PURPOSE = "signing key encryption"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key pair and its state: `current` signs."""

    key: ECKey
    state: str

    @property
    def public(self) -> dict[str, Any]:
        """The public JWK, as /jwks shows it."""
        return {**self.key.as_dict(private=False), "use": "sig", "alg": "ES256"}


async def load_or_create(store: SigningKeyStore, master_key: MasterKey, now: int) -> tuple[list[SigningKey], bool]:
    """The stored signing keys; on the very first start of all processes, one is made.

    Args:
        store: where they are kept.
        master_key: encrypts their private parts.
        now: Unix seconds, kept as the time of creation.

    Returns:
        The keys, and whether this call made them.

    Raises:
        WrongMasterKeyError: they were encrypted under another master key.
        StoreUnavailableError: the store is away.
    """
    document = await store.find()
    made = None
    if document is None:
        made = _new_document(master_key, now)
        document = await store.put_first(made)
    return [_decrypt(each, master_key) for each in json.loads(document)["keys"]], document == made


def _new_document(master_key: MasterKey, now: int) -> str:
    key = ECKey.generate_key("P-256", auto_kid=True)
    private = json.dumps(key.as_dict(private=True)).encode()
    return json.dumps({"keys": [{
        "state": "current", "created": now, "public": key.as_dict(private=False),
        "private": master_key.encrypt(_PURPOSE, private),
    }]})  # fmt: skip


def _decrypt(stored: dict[str, Any], master_key: MasterKey) -> SigningKey:
    private = json.loads(master_key.decrypt(_PURPOSE, stored["private"]))
    return SigningKey(ECKey.import_key(private), stored["state"])
