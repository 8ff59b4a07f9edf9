"""The audit log: its chain, its sinks, and what `verify` finds."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry

from keystile_common.audit import Actor, AuditLog, EventType, FileSink, StreamSink, configure, verify
from keystile_common.metrics import AuditMetrics
from keystile_common.settings import AuditSettings, SettingsError


def audit_log(*sinks: StreamSink | FileSink) -> AuditLog:
    return AuditLog(sinks, AuditMetrics(CollectorRegistry()))


def record(log: AuditLog, times: int = 1) -> None:
    for number in range(times):
        log.record(
            EventType.TOKEN_ISSUED,
            "success",
            Actor("user_1", "client", "192.0.2.1"),
            reason="authorization_code",
            target={"number": str(number)},
        )


def written(times: int = 5) -> list[str]:
    stream = io.StringIO()
    record(audit_log(StreamSink("stdout", stream)), times)
    return stream.getvalue().splitlines()


def test_an_event_says_who_did_what_to_whom_and_when() -> None:
    event = json.loads(written(1)[0])
    assert event["audit"] is True
    assert event["type"] == "token.issued"
    assert event["outcome"] == "success"
    assert event["actor"] == {"sub": "user_1", "client_id": "client", "ip": "192.0.2.1"}
    assert event["target"] == {"number": "0"}
    assert event["time"].endswith("Z")
    assert len(event["id"]) == 32
    assert (event["sequence"], event["previous"]) == (1, "0" * 64)


def test_a_chain_that_nobody_touched_holds() -> None:
    assert verify(written()) == (5, [])


def test_other_log_lines_between_events_do_not_matter() -> None:
    lines = written()
    assert verify([lines[0], "plain text", '{"level":"info"}', "[]", "", *lines[1:]]) == (5, [])


@pytest.mark.parametrize("taken", [[0], [1], [2, 3]])
def test_an_event_that_was_taken_out_shows(taken: list[int]) -> None:
    lines = [line for number, line in enumerate(written()) if number not in taken]
    assert verify(lines)[1]


@pytest.mark.parametrize("number", range(4))
def test_an_event_that_was_changed_shows(number: int) -> None:
    lines = written()
    lines[number] = lines[number].replace("success", "denied")
    breaks = verify(lines)[1]
    assert [each.line for each in breaks] == [number + 2]


def test_an_event_that_was_inserted_shows() -> None:
    lines = written()
    assert verify([*lines[:2], lines[1], *lines[2:]])[1]
    assert verify([*lines[:2], lines[2].replace("user_1", "user_2"), *lines[2:]])[1]


def test_events_that_changed_places_show() -> None:
    lines = written()
    assert verify([lines[0], lines[2], lines[1], *lines[3:]])[1]


@pytest.mark.parametrize("sequence", ["x", None, [], -1, 1.5, True])
def test_an_event_with_an_impossible_sequence_is_a_break_and_no_crash(sequence: Any) -> None:
    event = {"audit": True, "sequence": sequence, "previous": "x"}
    assert verify([*written(2), json.dumps(event)])[1]


def test_a_file_goes_on_with_its_chain_after_a_restart(tmp_path: Path) -> None:
    for _ in range(3):
        sink = FileSink(tmp_path / "audit")
        record(audit_log(sink), 2)
        sink.close()
    lines = (tmp_path / "audit").read_text().splitlines()
    assert verify(lines) == (6, [])
    assert json.loads(lines[-1])["sequence"] == 6
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o600


def test_two_processes_keep_one_chain_in_one_file(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from prometheus_client import CollectorRegistry;"
        "from keystile_common.audit import *; from keystile_common.metrics import AuditMetrics;"
        "log = AuditLog([FileSink(Path(sys.argv[1]))], AuditMetrics(CollectorRegistry()));"
        "[log.record(EventType.CONSENT, 'success', Actor()) for _ in range(200)]"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "audit")]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(30) for process in processes] == [0, 0]
    assert verify((tmp_path / "audit").read_text().splitlines()) == (400, [])


def test_half_an_event_at_the_end_of_a_file_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    """Its writer was killed, or the disk was full."""
    file = tmp_path / "audit"
    sink = FileSink(file)
    record(audit_log(sink), 2)
    sink.close()
    file.write_text(file.read_text() + '{"audit":true,"seq')
    sink = FileSink(file)
    record(audit_log(sink), 2)
    sink.close()
    assert verify(file.read_text().splitlines()) == (4, [])


class _FullDisk(io.StringIO):
    def write(self, text: str) -> int:  # noqa: ARG002 (a stream's signature)
        raise OSError(28, "No space left on device")


def test_a_sink_that_fails_is_counted_and_the_others_go_on() -> None:
    registry, good = CollectorRegistry(), io.StringIO()
    closed = io.StringIO()
    closed.close()
    sinks = [StreamSink("full", _FullDisk()), StreamSink("closed", closed), StreamSink("good", good)]
    record(AuditLog(sinks, AuditMetrics(registry)), 2)
    assert verify(good.getvalue().splitlines()) == (2, [])
    for name in ("full", "closed"):
        assert registry.get_sample_value("keystile_audit_write_failures_total", {"sink": name}) == 2
    counted = {"type": "token.issued", "outcome": "success"}
    assert registry.get_sample_value("keystile_audit_events_total", counted) == 2


def test_line_ends_and_foreign_letters_stay_in_their_line() -> None:
    stream = io.StringIO()
    audit_log(StreamSink("stdout", stream)).record(
        EventType.ACCESS_DENIED, "denied", Actor(client_id='x\r\n{"audit":true}\u2028\ud800'), reason="ü\n"
    )
    assert len(stream.getvalue().splitlines()) == 1
    assert stream.getvalue().isascii()


def test_an_audit_file_that_cannot_be_written_is_said_by_its_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"audit\.file: cannot write .*: Is a directory"):
        configure(AuditSettings(file=tmp_path), AuditMetrics(CollectorRegistry()))


def test_an_event_in_a_trace_carries_its_id() -> None:
    provider, stream = TracerProvider(), io.StringIO()
    with provider.get_tracer("t").start_as_current_span("s") as span:
        record(audit_log(StreamSink("stdout", stream)))
    provider.shutdown()
    assert json.loads(stream.getvalue())["trace_id"] == f"{span.get_span_context().trace_id:032x}"
