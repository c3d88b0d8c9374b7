"""What the reactor and the fork server say to each other."""

import struct

import pytest

from vllm_symphony.abi.launch import PACKET_BYTES, Cause, Record, Rlimits, Used, Verb, pack_used, unpack_used


@pytest.mark.parametrize(
    "record",
    [
        Record(Verb.LAUNCH, 2**53, rlimits=Rlimits(1 << 30, 2.5, 7, 99)),
        Record(Verb.STOP, 5),
        Record(Verb.EXITED, 5, 159, 1.25, Cause.DENIED),
        Record(Verb.FAILED, 5, 11),
    ],
)
def test_records_arrive_as_they_were(record):
    assert Record.unpack(record.pack()) == record


@pytest.mark.parametrize("packet", [b"", b"\1", b"\xff" * 26, b"\1" * 40])
def test_what_is_no_record_is_refused(packet):
    with pytest.raises((struct.error, ValueError)):
        Record.unpack(packet)


@pytest.mark.parametrize("count", [0, 1, 128, 129, 1000])
def test_any_number_of_programs_is_told_in_packets_that_fit(count):
    used = [Used(i, i / 7, i << 20) for i in range(count)]

    packets = list(pack_used(used))

    assert all(p[0] == Verb.USED and len(p) <= PACKET_BYTES for p in packets)
    assert [u for p in packets for u in unpack_used(p)] == used
