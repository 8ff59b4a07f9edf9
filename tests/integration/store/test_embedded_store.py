"""The embedded store as a child: it ends with its process, however that ends, and keeps what it was told."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from keystile_auth.store import embedded, tied
from tests.stores import eventually

PROGRAM = """
import sys, threading, time
from pathlib import Path
from keystile_auth.store import embedded

def begin():
    held.append(embedded.start(Path(sys.argv[1])))
    print(held[0].__enter__().process.pid, flush=True)

held = []
if sys.argv[2] == "main":
    begin()
else:
    threading.Thread(target=begin).start()
time.sleep(60)
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ks-") as name:
        yield Path(name)


@contextmanager
def process_with_store(folder: Path, thread: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A process that has started a store, and the store's id; killed behind the block if it was not in it."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), thread], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def at(folder: Path) -> "Redis":
    return Redis(unix_socket_path=(folder / "socket").read_text(), decode_responses=True)


@linux
def test_it_ends_with_a_process_that_is_killed_and_has_written_all_it_had(folder: Path) -> None:
    with process_with_store(folder, "main") as (process, store):
        assert Path(f"/proc/{store}/exe").resolve() == embedded.find_binary().resolve()
        with at(folder) as client:
            client.set("kept", "yes")
        process.kill()
        process.wait(10)
        eventually(lambda: not runs(store), "the store outlived its process")
    with embedded.run(folder), at(folder) as client:
        assert client.get("kept") == "yes"


@linux
def test_one_that_is_left_over_all_the_same_is_taken_over(folder: Path) -> None:
    # A thread's end would be taken for the process's, so a store that one starts is not tied to it.
    with process_with_store(folder, "other") as (process, store):
        with at(folder) as client:
            client.set("kept", "yes")
        process.kill()
        process.wait(10)
        time.sleep(0.5)
        assert runs(store)
        with embedded.start(folder) as next_one, at(folder) as client:
            assert not runs(store)
            assert next_one.process.pid != store
            assert client.get("kept") == "yes"


def test_it_outlives_the_thread_that_started_it(folder: Path) -> None:
    started: list[embedded.RunningStore] = []
    context = embedded.start(folder)
    thread = threading.Thread(target=lambda: started.append(context.__enter__()))
    thread.start()
    thread.join()
    time.sleep(0.3)
    try:
        assert started[0].process.poll() is None
    finally:
        context.__exit__(None, None, None)
    assert started[0].process.poll() is not None


@linux
def test_one_that_is_about_to_end_is_waited_for(folder: Path) -> None:
    with process_with_store(folder, "other") as (process, store):
        os.kill(store, signal.SIGSTOP)
        process.kill()
        process.wait(10)
        threading.Timer(1.5, os.kill, (store, signal.SIGCONT)).start()
        with embedded.start(folder):
            assert not runs(store)


@linux
def test_nothing_is_started_for_a_process_that_is_gone_already(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = [sys.executable, "-I", "-S", tied.__file__, "1", "/usr/bin/touch", str(mark)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "is gone" in ended.stderr
    assert not mark.exists()
