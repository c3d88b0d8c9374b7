"""docs/security.md shows the matrix as it is tried."""

from tests.commanded import ROOT
from tests.doors.matrix import ROWS

PAGE = (ROOT / "docs" / "security.md").read_text()


def test_the_page_shows_each_row_of_the_matrix():
    section = PAGE.partition("## Bad input")[2].partition("\n## ")[0]

    shown = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in section.splitlines() if line.startswith("| ")]

    assert shown[1:] == [(row.what, row.grpc, row.http) for row in ROWS]
    assert len({row.what for row in ROWS}) == len(ROWS)


def test_each_row_is_tried_at_each_door_that_has_it():
    folder = ROOT / "tests"
    tried = {door: (folder / "doors" / f"test_{door}.py").read_text() for door in ("grpc", "http")}
    slow = (folder / "web" / "test_connection.py").read_text()

    missing = [
        (door, row.what) for row in ROWS for door in tried if getattr(row, door) != "-" and f'"{row.what}"' not in tried[door]
    ]

    assert missing == [("http", "more connections than there is room for")]
    assert "def test_one_address_has_half_of_the_places_and_gets_them_back" in slow


def test_the_numbers_on_the_page_are_those_of_the_code():
    from vllm_symphony.edge import server
    from vllm_symphony.web import body, connection

    handshake_s = dict(server._OPTIONS)["grpc.server_handshake_timeout_ms"] // 1000
    page = " ".join(PAGE.split())
    for said in (
        f"{server.MAX_CONNECTIONS:,} at each door",
        f"{server.MAX_STREAMS:,} RPCs in a connection, {server.MAX_METADATA_BYTES >> 10} KiB of gRPC metadata",
        f"{connection.MAX_HEADER_BYTES >> 10} KiB of HTTP headers",
        f"{server.MAX_MESSAGE_BYTES >> 20} MiB (HTTP: {body.MAX_BODY_BYTES >> 20} MiB)",
        f"gRPC {handshake_s} seconds for a handshake",
    ):
        assert said in page
    assert connection.MAX_CONNECTIONS == server.MAX_CONNECTIONS
    assert (connection.HEADERS_S, body.PATIENCE_S, body.MIN_BYTES_PER_S, connection.WRITE_S) == (20.0, 20.0, 1024, 60.0)
