"""Load reports: what a balancing client reads of a server's load."""

import base64
import select
import struct
import time
from pathlib import Path

from bench.load.workload import framed
from frostline.protocol import MODEL_INFER
from frostline.tune.http2 import Connection, connected
from frostline_server.rpc.load_report import KEY, LoadReport, Totals
from tests.support import onnx_models
from tests.support.calls import row_request
from tests.support.servers import TIMEOUT_S, running

VERSION = ("m", "1")


def fields(value: bytes) -> dict[int, float | bytes]:
    """The fields of a serialised report by number, its doubles as numbers."""
    data = base64.b64decode(value + b"=" * (-len(value) % 4))
    found: dict[int, float | bytes] = {}
    at = 0
    while at < len(data):
        number, kind = data[at] >> 3, data[at] & 7
        if kind == 1:
            (found[number],) = struct.unpack_from("<d", data, at + 1)
            at += 9
        else:
            found[number] = data[at + 2 : at + 2 + data[at + 1]]
            at += 2 + data[at + 1]
    return found


def measured(before: Totals, after: Totals, seconds: float, cpus: int = 1) -> dict[int, float | bytes]:
    told = iter([before, after])
    report = LoadReport(lambda: next(told), cpus, now_s=100.0)
    return fields(report.measure(100.0 + seconds))


def test_a_report_is_of_what_happened_since_the_last_one() -> None:
    before = Totals(100, 10, 5.0, {VERSION: 50.0}, 7.0)
    after = Totals(300, 14, 7.0, {VERSION: 50.5}, 8.0)
    found = measured(before, after, seconds=2.0, cpus=2)
    assert (found[6], found[7]) == (100.0, 2.0)
    # The device was busy for half of a second of two, and the two CPUs for one of four.
    assert found[9] == 0.25
    named = found[8]
    assert isinstance(named, bytes)
    assert named[2:15] == b"queue_seconds"
    assert struct.unpack("<d", named[16:]) == (0.01,)


def test_the_utilisation_is_that_of_whatever_is_busiest() -> None:
    before = Totals(0, 0, 0.0, {("a", "1"): 0.0, ("b", "1"): 0.0}, 0.0)
    assert measured(before, Totals(1, 0, 0.0, {("a", "1"): 0.9, ("b", "1"): 0.2}, 0.1), 1.0)[9] == 0.9
    assert measured(before, Totals(1, 0, 0.0, {("a", "1"): 0.1, ("b", "1"): 0.2}, 0.6), 1.0)[9] == 0.6


def test_a_version_that_is_gone_takes_nothing_away() -> None:
    before = Totals(100, 10, 5.0, {VERSION: 50.0}, 7.0)
    found = measured(before, Totals(20, 1, 1.0, {}, 7.0), seconds=1.0)
    assert (found[6], found[7], found[9]) == (0.0, 0.0, 0.0)


def trailers(connection: Connection) -> dict[str, str]:
    """The trailers of one answer; gRPC's own client keeps this one to itself."""
    connection.request(framed(row_request(onnx_models.rows(1)).SerializeToString()))
    connection.flush()
    while not (answers := connection.receive()):
        select.select([connection], [], [], TIMEOUT_S)
    return answers[0].trailers


def test_answers_carry_the_report(tmp_path: Path) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    with (
        running(tmp_path, log_level="error") as server,
        connected(server.address, MODEL_INFER, 1) as (connection,),
    ):
        give_up_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < give_up_s:
            value = trailers(connection).get(KEY)
            if value is not None and fields(value.encode())[6]:
                break
        else:
            raise AssertionError("no report came")


def test_reports_can_be_turned_off(tmp_path: Path) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    with running(tmp_path, log_level="error", load_reports=False) as server:
        front_end = server.server._transport._h2
        assert front_end is not None
        assert front_end._report is None
