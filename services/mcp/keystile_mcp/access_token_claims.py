"""What the claims of an access token say, whichever provider made it: those of a JWT, or of an introspection answer."""

from collections.abc import Iterable, Sequence
from typing import Any

from keystile_common import opaque
from keystile_common.jws import audiences_of, numeric_date
from keystile_mcp.introspection_answer import LATEST_TIME, ActiveToken, canonical
from keystile_mcp.issuers import Issuer
from keystile_mcp.providers import TYPE_HEADER, Proof, ScopeClaim

Claims = dict[str, Any]


class ClaimsError(Exception):
    """Claims of no access token. `kind` says why from a closed set; `str()` ends a sentence that begins with it."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind


def check_kind(claims: Claims, type_: str, issuer: Issuer) -> None:
    """Refuse a JWT that is no access token of `issuer`. What is checked need not be verified yet.

    Args:
        claims: of the token.
        type_: its header's `typ`, in lower case without `application/`; empty where there is none.
        issuer: whose it must be.

    Raises:
        ClaimsError: `wrong_type`, `wrong_issuer` or `unsupported`.
    """
    provider = issuer.provider
    if type_ not in provider.types:
        named = " or ".join(sorted(filter(None, provider.types)))
        raise ClaimsError("wrong_type", f"must have the typ {named}; an ID token is none")
    if not _is_issued_by(claims.get("iss"), issuer):
        raise ClaimsError("wrong_issuer", "is of another issuer")
    _check_proofs({**claims, TYPE_HEADER: type_}, provider.proofs, issuer)


def read_jwt(claims: Claims, issuer: Issuer) -> ActiveToken:
    """Read the claims of a JWT of `issuer` that passed `check_kind`, once its signature holds.

    Raises:
        ClaimsError: something is missing, or of the wrong type.
    """
    missing = [name for name in ("iss", "exp", "sub", *issuer.provider.required) if name not in claims]
    if not any(name in claims for name in issuer.provider.audience_claims):
        missing.insert(0, "aud")
    if not any(name in claims for name in issuer.provider.client_claims):
        missing.append(issuer.provider.client_claims[0])
    if missing:
        raise ClaimsError("malformed", f"has no {', '.join(dict.fromkeys(missing))}")
    tenant = issuer.provider.tenant(issuer.identifier)
    if tenant is not None and claims["tid"] != tenant:
        raise ClaimsError("wrong_issuer", "is of another tenant")
    if numeric_date(claims.get("iat", 0)) is None or not isinstance(claims.get("jti", ""), str):
        raise _wrong_type()
    return _read(claims, issuer, _scope_claim(claims, issuer))


def read_introspected(answer: Claims, issuer: Issuer) -> ActiveToken | None:
    """Read an introspection answer with `active` true; None where it is of no access token of `issuer`.

    Raises:
        ClaimsError: something is missing, or of the wrong type.
    """
    try:
        _check_proofs(answer, issuer.provider.answer_proofs, issuer)
    except ClaimsError:
        return None
    if not _is_issued_by(answer.get("iss", issuer.identifier), issuer):
        return None
    if "exp" not in answer:
        raise ClaimsError("malformed", "has no exp")
    return _read(answer, issuer, issuer.scope_claim or "scope")


def _is_issued_by(name: object, issuer: Issuer) -> bool:
    return isinstance(name, str) and name in issuer.names


def _check_proofs(claims: Claims, proofs: Sequence[Proof], issuer: Issuer) -> None:
    if any(name in claims for name in issuer.provider.id_token_marks):
        raise ClaimsError("wrong_type", "is an ID token")
    if "cnf" in claims:
        # Whoever presents it would have to prove that it has the key (RFC 9449, RFC 8705).
        raise ClaimsError("unsupported", "is bound to a key, which is not checked here")
    if not any(_holds(proof, claims) for proof in proofs):
        raise ClaimsError("wrong_type", "is not known to be an access token; an ID token is none")


def _holds(proof: Proof, claims: Claims) -> bool:
    return all(
        name in claims and claims[name] is not None and (value is None or claims[name] == value)
        for name, value in proof.items()
    )


def _scope_claim(claims: Claims, issuer: Issuer) -> ScopeClaim:
    usual = issuer.scope_claim or issuer.provider.scope_claims[0]
    machine = issuer.provider.machine_scope_claim
    return machine if machine is not None and usual not in claims else usual


def _read(claims: Claims, issuer: Issuer, scope_claim: ScopeClaim) -> ActiveToken:
    expires, not_before = numeric_date(claims["exp"]), numeric_date(claims.get("nbf", 0))
    if expires is None or not_before is None or expires > LATEST_TIME:
        raise _wrong_type()
    provider = issuer.provider
    grantable = _texts(claims.get("grantable_scope"))
    subject = _first(claims, provider.subject_claims)
    client_id, jti = _first(claims, provider.client_claims), claims.get("jti")
    if subject is None and client_id is None:
        raise ClaimsError("malformed", "names neither a client nor a subject")
    return ActiveToken(
        issuer=issuer.identifier,
        resource=issuer.resource if _is_meant_for(claims, issuer) else None,
        client_id=client_id or "",
        subject=subject,
        scopes=_scopes(claims, issuer, scope_claim),
        not_before=not_before or None,
        expires_at=expires if issuer.until is None else min(expires, issuer.until),
        username=_first(claims, provider.username_claims),
        grantable_scopes=grantable if "grantable_scope" in claims else None,
        jti=jti if isinstance(jti, str) else None,
        issued_at=numeric_date(claims.get("iat")),
        session=_session(claims, issuer),
    )


def _session(claims: Claims, issuer: Issuer) -> str | None:
    jti, sid = claims.get("jti"), claims.get("sid")
    if issuer.is_keystile:
        return opaque.grant_of_jti(jti) if isinstance(jti, str) else None
    return sid if isinstance(sid, str) else None  # OpenID Connect Front-Channel Logout section 3


def _is_meant_for(claims: Claims, issuer: Issuer) -> bool:
    name = next((name for name in issuer.provider.audience_claims if name in claims), "aud")
    named = audiences_of({"aud": claims.get(name)})
    return any(_same(one, other) for one in named for other in issuer.audiences)


def _same(one: str, other: str) -> bool:
    # Two spellings of one URL; any other audience, such as a GUID, has one.
    is_url = other.startswith(("https://", "http://"))
    return one == other or (is_url and canonical(one) == canonical(other))


def _scopes(claims: Claims, issuer: Issuer, name: ScopeClaim) -> tuple[str, ...]:
    if name == "realm_access":
        return _roles(claims.get(name))
    if name == "resource_access":
        access = claims.get(name, {})
        if not isinstance(access, dict):
            raise _wrong_type()
        return tuple(dict.fromkeys(role for audience in issuer.audiences for role in _roles(access.get(audience))))
    value = claims.get(name)
    if name == "scope" and not isinstance(
        value, str | None
    ):  # RFC 6749 section 3.3; others are lists at some providers
        raise _wrong_type()
    scopes = _texts(value)
    # Roles and groups are named at the provider, as they stand in the token.
    if not issuer.provider.tokens_have_prefix or not issuer.scope_prefix or name not in {"scope", "scp"}:
        return scopes
    prefix = issuer.scope_prefix
    return tuple(scope.removeprefix(prefix) for scope in scopes if scope.startswith(prefix))


def _roles(access: object) -> tuple[str, ...]:
    if access is None:
        return ()
    if not isinstance(access, dict):
        raise _wrong_type()
    return _texts(access.get("roles"))


def _texts(value: object) -> tuple[str, ...]:
    """A list of strings, or one with spaces between them."""
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(map(_text, value.split()))
    if not isinstance(value, list):
        raise _wrong_type()
    return tuple(map(_text, value))


def _first(claims: Claims, names: Iterable[str]) -> str | None:
    found = next((claims[name] for name in names if claims.get(name) is not None), None)
    return None if found is None else _text(found)


def _text(value: object) -> str:
    # A lone surrogate can be written nowhere, the audit log included.
    if not isinstance(value, str) or not value.isprintable():
        raise _wrong_type()
    return value


def _wrong_type() -> ClaimsError:
    return ClaimsError("malformed", "has a claim of the wrong type")
