"""Files that come along with a message: rights, who holds them on the way, who pays for them, and no room for them."""

import pytest

from tests.unit.kernel.post import End, client, pair
from tests.unit.kernel.world import ADMIN, OTHER, World
from vllm_symphony import errors
from vllm_symphony.abi.types import OpenFlags, SendFd
from vllm_symphony.kernel.fs.inode import Inode

RDWR, CREAT = int(OpenFlags.RDWR), int(OpenFlags.CREAT)


def between_two(w: World, **args: object) -> tuple[End, End]:
    """A channel of `me`'s that `other` may receive from."""
    w("umask", mask=0)
    a = End(w, "post", "w", create=True, mode=0o644, **args)
    return a, End(w, "me/post", "r", by=client(w, OTHER))


def only_file(w: World) -> Inode:
    (inode,) = w.kernel.files.inodes.values()
    return inode


def test_a_file_is_open_at_the_receiver_though_the_sender_has_closed_it(w: World) -> None:
    a, b = pair(w)
    fd = w.file([1, 2, 3])
    a.send("", fds=(fd,))
    w("close", fd=fd)
    w.check()

    (got,) = b.recv().fds

    assert w.tokens(got, b.pid) == [1, 2, 3]
    assert w.tokens(w("fork", by=b.pid, fd=got).fd, b.pid) == [1, 2, 3]


def test_it_comes_with_the_rights_that_were_sent_and_no_others(w: World) -> None:
    a, b = pair(w)
    fd = w.file([1])
    a.send("", fds=(fd, SendFd(fd, writable=True)))

    to_read, to_write = b.recv().fds

    with pytest.raises(errors.BadFile):
        w("append", by=b.pid, fd=to_read, tokens=[2])
    w("append", by=b.pid, fd=to_write, tokens=[2])
    assert w.tokens(fd) == [1, 2]


def test_nobody_hands_on_more_rights_than_it_has(w: World) -> None:
    a, _ = pair(w)
    w("open", path="/tmp/doc", tokens=[1], flags=CREAT | RDWR)
    fd = w("open", path="/tmp/doc").fd

    with pytest.raises(errors.BadFile):
        a.send("", fds=(SendFd(fd, writable=True),))
    with pytest.raises(errors.BadFile):
        a.send("", fds=(fd, 99))
    assert w.kernel.counters()["messages"] == 0


def test_a_message_whose_files_do_not_fit_stays_where_it_is() -> None:
    w = World(fds=3)
    a, b = pair(w)
    fd = w.file([1])
    a.send("0", fds=(fd, fd))
    a.send("1")
    taken = [w.file(by=b.pid) for _ in range(2)]

    with pytest.raises(errors.TooManyFiles):
        b.recv()
    with pytest.raises(errors.TooManyFiles):
        b.recv()
    w("close", by=b.pid, fd=taken[0])

    assert [len(b.recv().fds), b.recv().data] == [2, b"1"]
    w.check()


def test_one_that_waits_and_has_no_room_hears_so_and_the_next_gets_it() -> None:
    w = World(fds=2)
    a, b = pair(w)
    c = End(w, "post", "r", by=w.program())
    for _ in range(2):
        w.file(by=b.pid)
    calls = [b.start_recv(), c.start_recv()]

    a.send("0", fds=(w.file([7]),))

    with pytest.raises(errors.TooManyFiles):
        b.result(calls[0])
    assert w.tokens(c.result(calls[1]).message.fds[0], c.pid) == [7]
    w.check()


def test_a_file_of_a_message_that_is_never_received_goes_with_the_channel(w: World) -> None:
    a, b = pair(w)
    fd = w.file()
    a.send("", fds=(fd,))
    w("close", fd=fd)
    w("channel_unlink", name="post")

    b.close()

    assert w.kernel.files.inodes == {}


def test_a_blocked_sender_holds_its_files_until_it_gives_up(w: World) -> None:
    a, _ = pair(w, capacity=1)
    a.send("")
    fd = w.file()
    call = a.start_send("", fds=(fd,))
    w("close", fd=fd)
    assert len(w.kernel.files.inodes) == 1

    w("cancel", target=call)

    assert w.kernel.files.inodes == {}


def test_another_principal_reads_what_it_was_sent_as_if_it_had_opened_it(w: World) -> None:
    a, b = between_two(w)
    w("open", path="/tmp/mine", tokens=[1, 2], flags=CREAT | RDWR, mode=0o600)
    fd = w("open", path="/tmp/mine").fd
    with pytest.raises(errors.AccessDenied):
        w("open", by=b.pid, path="/tmp/mine")
    a.send("", fds=(fd,))

    (got,) = b.recv().fds

    assert w.tokens(got, b.pid) == [1, 2]
    with pytest.raises(errors.BadFile):
        w("append", by=b.pid, fd=got, tokens=[3])
    assert only_file(w).owner == "me"  # it has a name: it stays its owner's
    copy = w("fork", by=b.pid, fd=got)
    inode = w.kernel.files.inodes[copy.ino]
    assert (inode.owner, inode.domain) == ("other", "other")


def test_what_was_given_away_is_the_receivers(w: World) -> None:
    a, b = between_two(w)
    fd = w.file([1])
    a.send("", fds=(fd,))
    w("close", fd=fd)
    assert only_file(w).owner == "me"  # on its way

    b.recv()

    assert only_file(w).owner == "other"
    assert w("getquota", by=b.pid).quota.used_files == 1
    assert w("getquota").quota.used_files == 0


def test_who_still_has_it_open_pays_for_it(w: World) -> None:
    a, b = between_two(w)
    fd = w.file([1])
    a.send("", fds=(SendFd(fd, writable=True),))

    (got,) = b.recv().fds
    w("append", by=b.pid, fd=got, tokens=[2])

    assert only_file(w).owner == "me"
    assert w.tokens(fd) == [1, 2]


def test_a_receiver_that_may_not_own_what_comes_gets_it_when_it_may(w: World) -> None:
    a, b = between_two(w)
    fd = w.file([1])
    a.send("0", fds=(fd,))
    w("close", fd=fd)
    admin = client(w, ADMIN)
    w("setquota", by=admin, principal="other", files=0)

    with pytest.raises(errors.QuotaExceeded):
        b.recv()
    assert only_file(w).owner == "me"
    w("setquota", by=admin, principal="other", files=1)

    assert w.tokens(b.recv().fds[0], b.pid) == [1]
    assert only_file(w).owner == "other"


@pytest.mark.parametrize("how", ["closes", "ends"])
def test_what_the_sender_lets_go_of_later_is_the_receivers_then(w: World, how: str) -> None:
    program = w.program()
    w("umask", by=program, mask=0)
    a = End(w, "post", "w", by=program, create=True, mode=0o644)
    b = End(w, "me/post", "r", by=client(w, OTHER))
    call = b.start_recv()
    fd = w.file([1], by=program)
    second = w("dup", by=program, fd=fd).fd
    a.send("", fds=(SendFd(fd, writable=True),))
    w("close", by=program, fd=fd)
    assert only_file(w).owner == "me" and not b.is_open(call)

    if how == "closes":
        w("close", by=program, fd=second)
    else:
        w.exited(program)

    assert only_file(w).owner == "other"
    w("channel_unlink", name="post")


def test_what_its_heir_has_no_room_for_stays_its_owners(w: World) -> None:
    a, b = between_two(w)
    fd = w.file([1])
    a.send("", fds=(fd,))
    b.recv()
    w("setquota", by=client(w, ADMIN), principal="other", files=0)

    w("close", fd=fd)

    assert only_file(w).owner == "me"


def test_of_several_listeners_the_first_pays(w: World) -> None:
    a, b = between_two(w, kind="topic")
    third = client(w, ADMIN)
    c = End(w, "me/post", "r", by=third)
    fd = w.file([1])
    a.send("", fds=(fd,))
    w("close", fd=fd)

    b.recv()
    assert only_file(w).owner == "me"  # it is still on its way to the other
    c.recv()

    assert only_file(w).owner == "other"


def test_pages_that_are_given_away_need_room_in_the_receivers_quota(w: World) -> None:
    a, b = between_two(w)
    fd = w.file([1, 2, 3])
    w.start("forward", fd=fd)
    w.step()
    a.send("", fds=(fd,))
    w("close", fd=fd)
    admin = client(w, ADMIN)
    w("setquota", by=admin, principal="other", device_pages=0)

    with pytest.raises(errors.QuotaExceeded, match="that come along do not fit"):
        b.recv()
    w("setquota", by=admin, principal="other", device_pages=1)

    assert len(b.recv().fds) == 1
    assert only_file(w).owner == "other"
