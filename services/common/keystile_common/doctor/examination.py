"""Runs the checks: what can be reached, what a client finds, and then all the others at once."""

import asyncio
import time
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote_plus, urlsplit

from keystile_common.certificates import TrustedAuthorities
from keystile_common.doctor import (
    authorization,
    browsers,
    clock,
    endpoint,
    issuer_metadata,
    proxy,
    reach,
    resource_metadata,
    streams,
    tokens,
)
from keystile_common.doctor.discovery import discover
from keystile_common.doctor.finding import Checks, Finding, Outcome, Verdict, finding, unknown
from keystile_common.doctor.probe import NoAnswerError, Probe
from keystile_common.doctor.registration import registered
from keystile_common.doctor.scene import Options, Scene

TOTAL_SECONDS = 24.0
"""For all that is asked; what was registered is deleted after that, so that 30 s are never passed."""

_Subject = TypeVar("_Subject")
BEFORE: Checks[Scene] = {**endpoint.CHECKS, **resource_metadata.CHECKS, **issuer_metadata.CHECKS}
"""What a client meets before it registers."""

AFTER: Checks[Scene] = {
    **authorization.CHECKS,
    **browsers.CHECKS,
    **proxy.CHECKS,
    **clock.CHECKS,
    **tokens.CHECKS,
    **streams.CHECKS,
}
"""What comes after that."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an examination found.

    Attributes:
        url: that was examined.
        findings: in the order in which a client would meet them.
        was_asked: whether the server could be asked at all.
        seconds: that it took.
    """

    url: str
    findings: list[Finding]
    was_asked: bool
    seconds: float

    @property
    def outcome(self) -> Outcome:
        """The worst there is; what cannot be told makes nothing worse."""
        found = {each.outcome for each in self.findings}
        return next((each for each in (Outcome.PROBLEM, Outcome.WARNING) if each in found), Outcome.OK)


async def examine(options: Options, timeout_seconds: float, authorities: TrustedAuthorities | None = None) -> Report:
    """Look at an MCP server from outside.

    Args:
        options: what to look at, and with what; the URL is http or https, with a host.
        timeout_seconds: for one answer.
        authorities: whom to trust; the system's by default.

    Raises:
        CertificateError: the authorities cannot be read.
    """
    started = time.monotonic()
    async with Probe(timeout_seconds, TOTAL_SECONDS, authorities) as probe:
        _hide(options, probe)
        host = await reach.reach(options.url, probe)
        verdicts = await _run(reach.CHECKS, host)
        if host.is_reached:
            verdicts |= await _look(Scene(options, probe))
        findings = [finding(name, verdict, probe.secrets) for name, verdict in verdicts.items()]
    was_asked = "" in host.open.values()
    return Report(options.url, findings, was_asked, time.monotonic() - started)


def _hide(options: Options, probe: Probe) -> None:
    for token in filter(None, (options.token, options.other_token)):
        probe.hide(token)
    for credentials in filter(None, (options.client, options.introspect_as)):
        # As they travel too: what a server sends back is shown.
        for each in (credentials.secret, quote_plus(credentials.secret), credentials.basic):
            probe.hide(each)


async def _look(scene: Scene) -> dict[str, Verdict]:
    await discover(scene)
    verdicts = await _issuer_host(scene)
    await tokens.obtain(scene)
    async with registered(scene) as registration:
        before, after = await asyncio.gather(_run(BEFORE, scene), _run(AFTER, scene))
    return {**before, **verdicts, "registration": registration.verdict, **after}


async def _issuer_host(scene: Scene) -> dict[str, Verdict]:
    """The checks of `reach` for the authorization server, where it is not at the MCP server's own host."""
    try:
        own, other = urlsplit(scene.url), urlsplit(scene.issuer or "")
        is_other = other.scheme in {"http", "https"} and other.hostname and other.netloc != own.netloc
        _ = other.port
    except ValueError:
        return {}
    if not is_other or scene.issuer is None:
        return {}
    host = await reach.reach(scene.issuer, scene.probe)
    return {f"issuer-{name}": verdict for name, verdict in (await _run(reach.CHECKS, host)).items()}


async def _run(checks: Checks[_Subject], subject: _Subject) -> dict[str, Verdict]:
    async def verdict(name: str) -> Verdict:
        try:
            return await checks[name](subject)
        except NoAnswerError as silence:
            sentence = str(silence)
        except ValueError:
            sentence = "a URL that a server sent cannot be read"
        return unknown(f"{sentence[:1].upper()}{sentence[1:]}.")

    return dict(zip(checks, await asyncio.gather(*map(verdict, checks)), strict=True))
