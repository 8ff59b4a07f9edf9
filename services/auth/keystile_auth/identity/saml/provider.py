"""SAML 2.0 identity providers: a request by redirect, an answer by POST, one signed assertion that is ours."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import TracebackType
from typing import TypeVar

from keystile_auth.identity.answer import (
    Identity,
    IdentityUnavailableError,
    SignIn,
    SignInAgainError,
    SignInRefusedError,
)
from keystile_auth.identity.attempt import Attempt
from keystile_auth.identity.provider import Provider
from keystile_auth.identity.saml.assertion import Expected, Subject
from keystile_auth.identity.saml.document import DocumentError
from keystile_auth.identity.saml.key import OwnKey
from keystile_auth.identity.saml.metadata import IdentityProvider, read_identity_provider, service_provider
from keystile_auth.identity.saml.request import authentication_request, redirect_url
from keystile_auth.identity.saml.response import subject_of
from keystile_auth.identity.saml.signatures import SignatureError, Signatures
from keystile_auth.identity.saml.source import MetadataSource
from keystile_auth.identity.saml.xmlsec1 import PROGRAM, MissingProgramError
from keystile_auth.identity.settings import IdentitySettings
from keystile_auth.store.upstream import UpstreamStore
from keystile_common.settings import SettingsError

_MAX_METADATA_BYTES = 2 * 1024 * 1024
_KEEP_SECONDS = 3600
_KEEP_FILE_SECONDS = 60
_THREADS = 2
_MAX_AT_ONCE = 16
_DEADLINE_SECONDS = 10.0
_FORMATS = {
    "persistent": "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent",
    "transient": "urn:oasis:names:tc:SAML:2.0:nameid-format:transient",
    "email": "urn:oasis:names:tc:SAML:1.1:nameid-format:emailAddress",
    "unspecified": None,
}
_NAMES = ("username", "uid", "urn:oid:0.9.2342.19200300.100.1.1", "email", "mail", "urn:oid:0.9.2342.19200300.100.1.3")

T = TypeVar("T")


class SamlProvider(Provider):
    """A SAML identity provider.

    Args:
        name: in the settings.
        settings: of this identity, kind `saml`.
        base: the URL below which ours are: its metadata, where answers are posted.
        clock: Unix seconds.
        store: remembers the assertions that were used.

    Raises:
        SettingsError: xmlsec1 is not installed, or has no folder for its files; or the key, the certificate or a file
            is none.
    """

    def __init__(
        self, name: str, settings: IdentitySettings, base: str, clock: Callable[[], float], store: UpstreamStore
    ) -> None:
        super().__init__(name, settings, f"{base}/acs", clock)
        self._store = store
        self._signatures = _signatures(name)
        self._key = OwnKey.of(name, settings)
        self._trusted = _text(settings.metadata_certificate_file, f"identity.{name}.metadata_certificate_file")
        self._entity_id = settings.entity_id or f"{base}/metadata"
        self._format = _FORMATS[settings.name_id_format]
        self.service_metadata = service_provider(
            self._entity_id, self._redirect_uri, self._format, self._key.certificate if self._key else None
        )
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"saml-{name}")
        self._at_once = 0
        keep = _KEEP_SECONDS if settings.metadata_url else _KEEP_FILE_SECONDS
        self._source = MetadataSource(self.title, self._load, keep, clock)

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, problem, traceback)
        self._executor.shutdown(wait=False, cancel_futures=True)

    @property
    def issuer(self) -> str:
        """See `Provider`: the entity id, once its metadata was read."""
        return self._source.known.entity_id if self._source.known else ""

    @property
    def address(self) -> str:
        """See `Provider`."""
        return self._source.known.sign_in_url if self._source.known else "https:"

    async def authorization_url(
        self,
        attempt: Attempt,
        login_hint: str | None,  # noqa: ARG002 (a request of SAML has no place for it)
        *,
        other_user: bool,
    ) -> str:
        """See `Provider`."""
        provider = await self._source.get()
        request = authentication_request(
            identifier=_request(attempt),
            entity_id=self._entity_id,
            recipient=self._redirect_uri,
            destination=provider.sign_in_url,
            name_id_format=self._format,
            other_user=other_user,
            now=self._clock(),
        )
        return redirect_url(request, provider.sign_in_url, attempt.state, self._key.private if self._key else None)

    async def sign_in(self, code: str, attempt: Attempt) -> SignIn:
        """See `Provider`; `code` is the parameter `SAMLResponse`."""
        provider = await self._source.get()
        try:
            subject = await self._subject(code, attempt, provider)
        except DocumentError as problem:
            raise SignInRefusedError(f"saml {problem}", "it sent an answer that is not taken") from None
        except SignatureError as problem:
            raise SignInRefusedError(f"saml {problem}", "it sent a proof that is not valid") from None
        seconds = max(int(subject.expires - self._clock()) + 1, 1)
        if not await self._store.use_assertion(provider.entity_id, subject.assertion, seconds):
            raise SignInRefusedError("saml replay", "it sent an answer that was used already")
        return SignIn(self._person(subject), until=subject.until)

    async def recheck(self, subject: str, credential: str) -> SignIn:  # noqa: ARG002
        """See `Provider`: it cannot be asked without the browser."""
        raise SignInAgainError

    async def _subject(self, posted: str, attempt: Attempt, provider: IdentityProvider) -> Subject:
        try:
            return await self._checked(posted, attempt, provider)
        except SignatureError:
            # It may have new keys.
            renewed = await self._source.renewed()
            if renewed.certificates == provider.certificates:
                raise
        return await self._checked(posted, attempt, renewed)

    async def _checked(self, posted: str, attempt: Attempt, provider: IdentityProvider) -> Subject:
        expected = Expected(
            provider.entity_id,
            self._entity_id,
            self._redirect_uri,
            _request(attempt),
            self._clock(),
            self.settings.leeway_seconds,
        )
        key = self._key.pem if self._key else None
        return await self._in_thread(
            partial(subject_of, posted, expected, provider.certificates, self._signatures, key)
        )

    def _person(self, subject: Subject) -> Identity:
        chosen = self.settings.subject_claim
        if chosen is None:
            name = subject.name
            # Who asks for one and gets another could take one person for another.
            if self._format is not None and subject.name_format != self._format:
                raise SignInRefusedError("saml NameID format", "it names people in another way than it was asked to")
            if subject.name_format == _FORMATS["transient"]:
                raise SignInRefusedError("saml transient NameID", "it did not say who this is")
        else:
            values = subject.attributes.get(chosen, [])
            if len(values) != 1:
                raise SignInRefusedError("saml subject attribute", "it did not say who this is")
            (name,) = values
        names = (self.settings.username_claim,) if self.settings.username_claim else _NAMES
        return self._identity(name, subject.attributes, names, self.settings.groups_claim or "groups")

    async def _load(self) -> IdentityProvider:
        data = await self._fetched() if self.settings.metadata_url else await self._in_thread(self._from_file)
        return await self._in_thread(
            partial(
                read_identity_provider,
                data,
                self._signatures,
                entity_id=self.settings.idp_entity_id,
                certificate=self._trusted,
                now=self._clock(),
            )
        )

    async def _fetched(self) -> bytes:
        headers = {"Accept": "application/samlmetadata+xml, application/xml;q=0.9, */*;q=0.1"}
        status, body = await self._body("GET", self.settings.metadata_url or "", _MAX_METADATA_BYTES, headers=headers)
        if status != HTTPStatus.OK:
            raise IdentityUnavailableError(self.title, f"answered {status} where its metadata should be")
        return body

    def _from_file(self) -> bytes:
        try:
            with Path(self.settings.metadata_file or "").open("rb") as file:
                data = file.read(_MAX_METADATA_BYTES + 1)
        except OSError:
            raise IdentityUnavailableError(self.title, "the file of its metadata cannot be read") from None
        if len(data) > _MAX_METADATA_BYTES:
            raise IdentityUnavailableError(self.title, "has metadata that is too large")
        return data

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run what parses or starts a program beside the event loop: few at once, and not for ever."""
        if self._at_once >= _MAX_AT_ONCE:
            raise IdentityUnavailableError(self.title, "has too many sign-ins at once")
        self._at_once += 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        future.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS):
                return await asyncio.shield(future)
        except TimeoutError:
            raise IdentityUnavailableError(self.title, "took too long to be checked") from None

    def _ended(self, future: "asyncio.Future[T]") -> None:
        self._at_once -= 1
        if not future.cancelled():
            future.exception()  # seen, though nobody may wait for it any more


def _signatures(name: str) -> Signatures:
    try:
        with NamedTemporaryFile():
            return Signatures()
    except OSError:
        raise SettingsError(
            f"identity.{name}: the kind saml needs a folder for temporary files, /tmp or TMPDIR, that can be written"
        ) from None
    except MissingProgramError:
        raise SettingsError(
            f"identity.{name}: the kind saml needs the program {PROGRAM}; "
            "on Debian and Ubuntu 'apt-get install xmlsec1' brings it, on macOS 'brew install libxmlsec1'"
        ) from None


def _text(file: Path | None, setting: str) -> str | None:
    try:
        return None if file is None else file.read_text()
    except (OSError, ValueError):
        raise SettingsError(f"{setting}: {file} cannot be read") from None


def _request(attempt: Attempt) -> str:
    # Made from the state under the master key, as a nonce is; an XML name begins with a letter or this.
    return f"_{attempt.nonce}"
