"""Names of channels, and who may open, see and unlink them."""

import pytest

from tests.unit.kernel.post import CREAT, EXCL, End, client
from tests.unit.kernel.world import ADMIN, OTHER, World
from vllm_symphony import errors
from vllm_symphony.abi.types import Credentials


def names(w: World, by: int | None = None, prefix: str = "") -> list[str]:
    return [stat.name for stat in w("channels", by=by, prefix=prefix).channels]


def test_a_bare_name_is_in_the_callers_own_namespace(w: World) -> None:
    End(w, "b", create=True)
    End(w, "me/a", create=True)

    assert names(w) == ["me/a", "me/b"]
    assert names(w, prefix="me/b") == ["me/b"]
    End(w, "me/b")


def test_a_name_is_made_once(w: World) -> None:
    with pytest.raises(errors.NoSuchFile):
        End(w, "post")
    End(w, "post", create=True, capacity=3)
    End(w, "post", create=True, capacity=5)
    assert w("channels").channels[0].capacity == 3

    with pytest.raises(errors.FileExists):
        w("channel_open", name="post", flags=CREAT | EXCL)
    w("channel_unlink", name="post")
    with pytest.raises(errors.NoSuchFile):
        w("channel_unlink", name="post")
    w("channel_open", name="post", flags=CREAT | EXCL)


def test_only_its_principal_and_admin_make_names_in_a_namespace(w: World) -> None:
    other, admin = client(w, OTHER), client(w, ADMIN)

    with pytest.raises(errors.AccessDenied):
        End(w, "me/post", by=other, create=True)
    End(w, "me/post", by=admin, create=True, mode=0o666)

    assert w("channels", by=admin).channels[0].owner == "root"
    w("channel_unlink", name="post")  # of me's namespace, though root made it


@pytest.mark.parametrize(("mode", "rights"), [(0o600, ""), (0o622, "w"), (0o644, "r"), (0o666, "rw")])
def test_others_open_it_as_its_mode_lets_them(w: World, mode: int, rights: str) -> None:
    w("umask", mask=0)
    End(w, "post", create=True, mode=mode)
    other = client(w, OTHER)

    for access in ("r", "w", "rw"):
        if set(access) <= set(rights):
            End(w, "me/post", access, by=other)
        else:
            with pytest.raises(errors.AccessDenied):
                End(w, "me/post", access, by=other)
    assert names(w, other) == (["me/post"] if rights else [])
    with pytest.raises(errors.AccessDenied):
        w("channel_unlink", by=other, name="me/post")


def test_the_umask_takes_rights_from_a_new_channel(w: World) -> None:
    End(w, "post", create=True, mode=0o666)

    assert w("channels").channels[0].mode == 0o644


def test_who_is_in_the_owners_group_has_the_groups_rights(w: World) -> None:
    w("umask", mask=0)
    End(w, "post", create=True, mode=0o640)
    friend = client(w, Credentials("friend", groups=("me",)))

    End(w, "me/post", "r", by=friend)
    with pytest.raises(errors.AccessDenied):
        End(w, "me/post", "w", by=friend)


def test_a_handle_is_for_what_it_was_opened_for(w: World) -> None:
    reads, writes = End(w, "post", "r", create=True), End(w, "post", "w")

    with pytest.raises(errors.AccessDenied):
        reads.send("0")
    with pytest.raises(errors.AccessDenied):
        reads.result(reads.ask("0"))
    with pytest.raises(errors.AccessDenied):
        writes.recv()


def test_a_handle_of_an_edge_is_its_openers_alone(w: World) -> None:
    edge = w.kernel.connect(ADMIN, "edge", 0)
    mine = Credentials("ann")
    call = w.start("channel_open", by=edge, name="", cred=mine)
    ch = w.result(call, edge).ch

    stranger = w.start("send", by=edge, ch=ch, cred=Credentials("bob"))
    own = w.start("send", by=edge, ch=ch, cred=mine)

    with pytest.raises(errors.BadFile):
        w.result(stranger, edge)
    assert w.result(own, edge).seq == 1


@pytest.mark.parametrize("name", ["/post", "me/", "a\0b", "\ud800"])
def test_what_is_no_name_is_refused(w: World, name: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        End(w, name, create=True)


def test_a_name_may_be_so_long(w: World) -> None:
    End(w, "x" * 255, create=True)

    with pytest.raises(errors.NameTooLong):
        End(w, "x" * 256, create=True)
    with pytest.raises(errors.NameTooLong):
        w("channel_unlink", name="ä" * 128)


@pytest.mark.parametrize("args", [
    {"flags": EXCL}, {"flags": 1}, {"access": "x"}, {"access": ""}, {"mode": 0o1777}, {"kind": "pipe"}, {"capacity": 0},
    {"capacity": 1025}, {"overflow": "drop_new"}, {"kind": "topic", "overflow": "lose"},
])  # fmt: skip
def test_a_channel_that_cannot_be_is_refused(w: World, args: dict) -> None:
    with pytest.raises(errors.InvalidArgument):
        w("channel_open", **args)


def test_channels_and_handles_have_limits() -> None:
    w = World(channels=3, channels_each=2, handles=3)
    End(w, "a", create=True)
    End(w, "b", create=True)
    with pytest.raises(errors.QuotaExceeded):
        End(w, "")
    End(w, "a")
    with pytest.raises(errors.TooManyFiles):
        End(w, "a")
    other = client(w, OTHER)
    End(w, "", by=other)

    with pytest.raises(errors.QuotaExceeded):
        End(w, "", by=client(w, ADMIN))
    w.check()


def test_a_list_shows_what_a_channel_is_and_how_full(w: World) -> None:
    a = End(w, "post", "w", create=True, kind="topic", capacity=5, overflow="drop_new")
    End(w, "post", "r", by=w.program())
    End(w, "", "rw")
    a.send("0")

    (stat,) = w("channels").channels

    assert (stat.name, stat.owner, stat.group, stat.mode, stat.kind) == ("me/post", "me", "me", 0o600, "topic")
    assert (stat.overflow, stat.capacity, stat.queued, stat.receivers, stat.senders) == ("drop_new", 5, 1, 1, 1)
