from vllm_symphony.abi.calls import Generate, Open, Spawn
from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import Grammar, Predicate, pack_tokens
from vllm_symphony.trace import summary
from vllm_symphony.trace.log import Entry, EventLog


def entry(pid: int, principal: str = "me") -> Entry:
    return (pid, 0, "ping", (), "ok", 1, 2, None, None, principal)


def test_the_log_keeps_the_newest_and_numbers_have_no_holes() -> None:
    log = EventLog(capacity=3, offset_ns=100)
    for pid in range(5):
        log.append(entry(pid))

    assert [(r.seq, r.pid, r.t_start_ns) for r in log.since()] == [(3, 2, 101), (4, 3, 101), (5, 4, 101)]
    assert [r.seq for r in log.since(5)] == [5]
    assert list(log.since(6)) == []
    assert (len(log), log.first_seq, log.next_seq) == (3, 3, 6)


def test_the_log_filters_by_process_and_principal() -> None:
    log = EventLog()
    log.append(entry(1))
    log.append(entry(1, "other"))
    log.append(entry(2))

    assert [r.seq for r in log.since(pid=1)] == [1, 2]
    assert [r.seq for r in log.since(principal="me")] == [1, 3]
    assert log.has(1, "other")
    assert not log.has(2, "other")


def test_a_digest_holds_no_contents() -> None:
    secret = "s3cret"
    cases = [
        ("open", Open("/a", pack_tokens([7, 8])), "path=/a n=2 flags=0"),
        ("spawn", Spawn(source=secret, args=secret), "entry=main"),
        (
            "generate",
            Generate(3, stop=(secret,), grammar=Grammar("regex", secret), until=Predicate("entropy")),
            "fd=3 max_tokens=256 grammar=regex until=entropy",
        ),
        ("unlink", CALLS["unlink"].args("/" + "x" * 100), "path=/" + "x" * 60 + "..."),
    ]
    for op, args, words in cases:
        digest = summary.DIGESTS[op](args)
        assert summary.text(op, digest) == words
        assert secret not in repr(digest)


def test_every_digest_belongs_to_a_call() -> None:
    assert summary.DIGESTS.keys() <= CALLS.keys()
