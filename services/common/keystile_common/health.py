"""Liveness and readiness: two routes that both services answer alike."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

RETRY_AFTER_SECONDS = 2
"""When to ask again while something is away."""

Check = Callable[[], Awaitable[str | None]]
"""Answers None when all is well, else a sentence without secrets."""


def routes(checks: dict[str, Check]) -> list[Route]:
    """`/healthz` (the process runs; never asks a dependency) and `/readyz` (every check passes, else 503)."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})

    async def readyz(_: Request) -> Response:
        problems = {name: problem for name, check in checks.items() if (problem := await check())}
        body = {"status": "unavailable" if problems else "ok", "problems": problems}
        headers = {"Cache-Control": "no-store", **({"Retry-After": str(RETRY_AFTER_SECONDS)} if problems else {})}
        return JSONResponse(body, status_code=503 if problems else 200, headers=headers)

    return [Route("/healthz", healthz, methods=["GET"]), Route("/readyz", readyz, methods=["GET"])]
