"""GitHub, which signs people in by OAuth without ID tokens: its API says who somebody is."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from keystile_auth.identity.answer import IdentityGoneError, IdentityUnavailableError, SignIn, SignInRefusedError
from keystile_auth.identity.attempt import Attempt
from keystile_auth.identity.provider import Provider
from keystile_auth.identity.settings import IdentitySettings

_PUBLIC = "https://github.com"
_MAX_ORGANISATIONS = 100


class GithubProvider(Provider):
    """github.com, or an Enterprise Server by its `issuer`. Groups are the names of a person's organisations."""

    def __init__(self, name: str, settings: IdentitySettings, redirect_uri: str, clock: Callable[[], float]) -> None:
        super().__init__(name, settings, redirect_uri, clock)
        base = settings.issuer_url.rstrip("/")
        self._login = f"{base}/login/oauth"
        self._api = "https://api.github.com" if base == _PUBLIC else f"{base}/api/v3"

    async def authorization_url(self, attempt: Attempt, login_hint: str | None, *, other_user: bool) -> str:
        """See `Provider`."""
        scopes = self.settings.scopes or ["read:user", "read:org"]
        prompt = "select_account" if other_user else None
        return f"{self._login}/authorize?{self._authorization_query(attempt, scopes, login=login_hint, prompt=prompt)}"

    async def sign_in(self, code: str, attempt: Attempt) -> SignIn:
        """See `Provider`."""
        answer = await self._token(
            f"{self._login}/access_token",
            "client_secret_post",
            code=code,
            redirect_uri=self._redirect_uri,
            code_verifier=attempt.code_verifier,
        )
        token = answer.content.get("access_token")
        if answer.status != HTTPStatus.OK or "error" in answer.content or not isinstance(token, str):
            raise SignInRefusedError("code", "it did not accept its own answer")
        return await self._who(token)

    async def recheck(self, subject: str, credential: str) -> SignIn:
        """See `Provider`."""
        try:
            signed_in = await self._who(credential)
        except SignInRefusedError as refused:
            raise IdentityGoneError(refused.reason) from None
        if signed_in.identity.subject != subject:
            raise IdentityUnavailableError(self.title, "answers about somebody else")
        return signed_in

    async def _who(self, token: str) -> SignIn:
        user = await self._of_api("/user", token)
        number = user.get("id")
        if not isinstance(number, int) or isinstance(number, bool):
            raise SignInRefusedError("sub", "it did not say who this is")
        organisations = await self._organisations(token)
        claims = {**user, "groups": organisations}
        # The number, not the login: a login can be given up and taken by another.
        names, groups = (self.settings.username_claim or "login",), self.settings.groups_claim or "groups"
        identity = self._identity(str(number), claims, names, groups)
        return SignIn(identity, token if self.settings.recheck == "refresh_token" else "")

    async def _organisations(self, token: str) -> list[Any]:
        answer = await self._of_api(f"/user/orgs?per_page={_MAX_ORGANISATIONS}", token)
        found = answer.get("list", [])
        return [each.get("login") for each in found if isinstance(each, dict)]

    async def _of_api(self, path: str, token: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"}
        answer = await self._json("GET", self._api + path, headers=headers)
        if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND}:
            raise SignInRefusedError("user", "it does not tell about this account")
        if answer.status != HTTPStatus.OK:  # 403 is its rate limit
            raise IdentityUnavailableError(self.title, f"answered {answer.status}")
        return dict(answer.content)
