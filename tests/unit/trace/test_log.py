from vllm_symphony.abi.calls import Advise, Extract, Find, Generate, Import, Mkdir, Open, Setxattr, Spawn
from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import Grammar, Predicate, Span, pack_tokens
from vllm_symphony.trace import summary
from vllm_symphony.trace.log import Entry, EventLog, Family


def entry(pid: int, principal: str = "me", spawner: int | None = None) -> Entry:
    return (pid, 0, "ping", (), "ok", 1, 2, None, None, principal, spawner)


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

    assert [r.seq for r in log.since(family=Family(1, children=True))] == [1, 2]
    assert [r.seq for r in log.since(principal="me")] == [1, 3]
    assert log.has(1, "other")
    assert not log.has(2, "other")


def test_a_family_is_a_process_and_all_that_descend_from_it() -> None:
    log = EventLog()
    for pid, spawner in ((1, None), (2, 1), (3, None), (4, 2), (5, 3), (1, None)):
        log.append(entry(pid, spawner=spawner))

    assert [r.pid for r in log.since(family=Family(1, children=True))] == [1, 2, 4, 1]
    assert [r.pid for r in log.since(family=Family(1, children=False))] == [1, 1]
    assert [r.pid for r in log.since(family=Family(2, children=True))] == [2, 4]


def test_the_log_knows_when_a_thread_was_last_in_a_call() -> None:
    log = EventLog(capacity=2)
    log.append(entry(1))
    log.append((2, 7, "ping", (), "ok", 3, 9, None, None, "me", None))

    assert (log.last_end_ns(1, 0), log.last_end_ns(2, 7), log.last_end_ns(2, 0)) == (2, 9, None)


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
        ("mkdir", Mkdir("/a", 0o750), "path=/a mode=0750"),
        ("setxattr", Setxattr("lang", secret, fd=3), "fd=3 name=lang chars=6"),
        ("extract", Extract(3, (Span(0, 4), Span(8, 10))), "fd=3 spans=2 n=6 positions=keep"),
        ("find", Find("/kb", text=secret), "path=/kb chars=6 limit=1000"),
        ("find", Find("/kb", xattr={"key": secret}), "path=/kb limit=1000"),
        ("advise", Advise(path="/a", advice="dontneed", tier="disk"), "path=/a advice=dontneed tier=disk"),
        ("import", Import("/a", spool=secret), "path=/a"),
    ]
    for op, args, words in cases:
        digest = summary.DIGESTS[op](args)
        assert summary.text(op, digest) == words
        assert secret not in repr(digest)


def test_every_digest_belongs_to_a_call() -> None:
    assert summary.DIGESTS.keys() <= CALLS.keys()
