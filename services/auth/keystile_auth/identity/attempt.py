"""What binds the answer of a server elsewhere to the browser that was sent there."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attempt:
    """One sign-in on its way: the values that bind its answer to it (RFC 6749, RFC 7636, OpenID Connect)."""

    state: str
    nonce: str
    code_verifier: str

    def __repr__(self) -> str:
        return "Attempt(…)"
