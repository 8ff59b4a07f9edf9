"""A process that was told to stop does, whatever its application does."""

import signal
import subprocess
import sys

_PROGRAM = """
import asyncio, contextlib, sys, threading
from keystile_common import server, stopping
from keystile_common.settings import Listen

stopping.CLOSING_SECONDS = 2

async def hangs_in_the_loop():
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)

async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    print("ready", flush=True)
    await receive()
    match sys.argv[1]:
        case "loop":
            await hangs_in_the_loop()
        case "thread":
            threading.Event().wait()
    await send({"type": "lifespan.shutdown.complete"})

with server.bind(Listen(), "PORT") as listener:
    server.run(app, listener, trusted_proxies=[], drain_seconds=0)
print("in order", flush=True)
"""


def stopped(how: str) -> tuple[int, str, str]:
    command = [sys.executable, "-c", _PROGRAM, how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        out, problems = process.communicate(timeout=30)
        return process.returncode, out, problems


def test_one_that_stops_in_order_is_let() -> None:
    code, out, problems = stopped("order")
    assert (code, out) == (0, "in order\n"), problems


def test_a_task_that_does_not_end_is_named_and_the_process_ends() -> None:
    code, out, problems = stopped("loop")
    assert code == 1
    assert "still not stopped" in out + problems
    assert "hangs_in_the_loop" in out + problems
    assert "in order" not in out


def test_a_loop_that_stands_still_is_named_and_the_process_ends() -> None:
    code, out, problems = stopped("thread")
    assert (code, out) == (1, "")
    assert "in app" in problems
