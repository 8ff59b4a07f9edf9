"""Liveness and readiness: two routes that both services answer alike."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Check = Callable[[], Awaitable[str | None]]
"""Answers None when all is well, else a sentence without secrets."""


def routes(checks: dict[str, Check]) -> list[Route]:
    """`/healthz` (the process runs; never asks a dependency) and `/readyz` (every check passes, else 503)."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})

    async def readyz(_: Request) -> Response:
        problems = {name: problem for name, check in checks.items() if (problem := await check())}
        body = {"status": "unavailable" if problems else "ok", "problems": problems}
        return JSONResponse(body, status_code=503 if problems else 200, headers={"Cache-Control": "no-store"})

    return [Route("/healthz", healthz, methods=["GET"]), Route("/readyz", readyz, methods=["GET"])]
