"""Rights against the rule of POSIX, written down again: the first class that one is in decides."""

from itertools import product

import pytest

from tests.unit.kernel.world import ADMIN, ME, OTHER, World
from vllm_symphony import errors
from vllm_symphony.abi.types import Credentials, OpenFlags
from vllm_symphony.errors import SymphonyError

RDWR, CREAT, TRUNC = int(OpenFlags.RDWR), int(OpenFlags.CREAT), int(OpenFlags.TRUNC)
MATE, STRANGER = Credentials("mate", ("staff",)), Credentials("stranger", ("others", "owner"))
OWNER = Credentials("owner", ("staff",))
CALLERS = {"owner": OWNER, "group": MATE, "other": STRANGER, "admin": ADMIN}
SHIFT = {"owner": 6, "group": 3, "other": 0}


def may(who: str, mode: int, right: int) -> bool:
    """The rule."""
    return who == "admin" or bool(mode >> SHIFT[who] & right)


def outcome(w: World, by: int, op: str, **args: object) -> str:
    try:
        w(op, by=by, **args)
    except SymphonyError as error:
        return error.reason
    return "ok"


def connected(w: World) -> dict[str, int]:
    return {who: w.kernel.connect(cred, "client", 0) for who, cred in CALLERS.items()}


@pytest.mark.parametrize("who", CALLERS)
def test_a_files_mode_decides_in_every_class(w: World, who: str) -> None:
    pids = connected(w)
    w("open", by=pids["owner"], path="/f", tokens=[1], flags=CREAT)
    w("chown", by=pids["owner"], path="/f", group="staff")

    for mine, right in product(range(8), repeat=2):
        mode = mine << SHIFT.get(who, 0)
        mode |= 0o777 & ~(7 << SHIFT.get(who, 0)) if right & 1 else 0  # what the other classes have does not count
        w("chmod", by=pids["owner"], path="/f", mode=mode)
        reads, writes = may(who, mode, 4), may(who, mode, 2)

        assert outcome(w, pids[who], "read", path="/f") == ("ok" if reads else "EACCES"), oct(mode)
        assert outcome(w, pids[who], "open", path="/f", flags=RDWR) == ("ok" if reads and writes else "EACCES"), oct(mode)
        assert outcome(w, pids[who], "stat", path="/f") == ("ok" if reads or who == "owner" else "EACCES"), oct(mode)
        assert outcome(w, pids[who], "setxattr", path="/f", name="a", value="") == ("ok" if writes else "EACCES"), oct(mode)


@pytest.mark.parametrize("who", CALLERS)
def test_a_directorys_mode_decides_in_every_class(w: World, who: str) -> None:
    pids = connected(w)
    owner, by = pids["owner"], pids[who]
    w("mkdir", by=owner, path="/d")
    w("chown", by=owner, path="/d", group="staff")
    w("open", by=owner, path="/d/f", flags=CREAT, mode=0o644)

    for mine in range(8):
        mode = mine << SHIFT.get(who, 0)
        w("chmod", by=owner, path="/d", mode=mode)
        reads, writes, passes = (may(who, mode, right) for right in (4, 2, 1))
        changes = "ok" if writes and passes else "EACCES"

        assert outcome(w, by, "listdir", path="/d") == ("ok" if reads else "EACCES"), oct(mode)
        assert outcome(w, by, "read", path="/d/f") == ("ok" if passes else "EACCES"), oct(mode)
        assert outcome(w, by, "stat", path="/d/none") == ("ENOENT" if passes else "EACCES"), oct(mode)
        assert outcome(w, by, "mkdir", path="/d/new") == changes, oct(mode)
        assert outcome(w, by, "rename", old="/d/f", new="/d/g") == changes, oct(mode)
        assert outcome(w, by, "rename", old="/d/g", new="/d/f") == ("ENOENT" if passes and not writes else changes), oct(mode)
        assert outcome(w, by, "rmdir", path="/d/new") == ("ENOENT" if passes and not writes else changes), oct(mode)
        stats = reads or passes or who == "owner"
        assert outcome(w, by, "stat", path="/d") == ("ok" if stats else "EACCES"), oct(mode)


def test_to_list_one_must_read_and_to_see_what_is_below_also_pass(w: World) -> None:
    other = w.kernel.connect(OTHER, "client", 0)
    w("mkdir", path="/d/deep", parents=True)
    w("open", path="/d/deep/f", flags=CREAT, mode=0o644)
    w("open", path="/d/private", flags=CREAT)

    for mode, shown in ((0o755, ["/d/deep", "/d/deep/f"]), (0o744, []), (0o711, None), (0o700, None)):
        w("chmod", path="/d", mode=mode)
        found = w("listdir", by=other, path="/", recursive=True).files
        assert [f.path for f in found if f.path.startswith("/d/")] == (shown or [])
        assert [f.path for f in w("list", by=other).files] == ([] if mode != 0o755 else ["/d/deep/f"])
        if shown is None:
            assert outcome(w, other, "listdir", path="/d") == "EACCES"


def test_umask_takes_bits_from_new_files_and_directories_alone(w: World) -> None:
    assert w("umask").mask == 0o022

    assert w("umask", mask=0o077).mask == 0o022
    w("mkdir", path="/d")
    w("open", path="/f", flags=CREAT, mode=0o666)
    w("chmod", path="/f", mode=0o644)
    w("open", path="/g", flags=CREAT, mode=0o777)

    assert [w("stat", path=path).file.mode for path in ("/d", "/f", "/g")] == [0o700, 0o644, 0o700]
    assert w("umask").mask == 0o077
    for mask in (-1, 0o1000):
        with pytest.raises(errors.InvalidArgument):
            w("umask", mask=mask)


def test_a_program_gets_its_parents_umask(w: World) -> None:
    w("umask", mask=0o027)

    assert w("umask", by=w.program()).mask == 0o027


def test_an_edge_is_shared_and_keeps_the_usual_umask(w: World) -> None:
    edge = w.kernel.connect(ADMIN, "edge", 0)

    assert w("umask", by=edge).mask == 0o022
    with pytest.raises(errors.InvalidArgument):
        w("umask", by=edge, mask=0)


def test_a_setgid_directory_gives_its_group_to_what_is_made_in_it(w: World) -> None:
    mate = w.kernel.connect(MATE, "client", 0)
    owner = w.kernel.connect(OWNER, "client", 0)
    w("mkdir", by=owner, path="/team")
    w("chown", by=owner, path="/team", group="staff")
    w("chmod", by=owner, path="/team", mode=0o2775)

    w("open", by=mate, path="/team/f", flags=CREAT, mode=0o640)
    w("mkdir", by=mate, path="/team/d")
    w("open", by=mate, path="/team/d/g", flags=CREAT)
    w("open", by=mate, path="/own", flags=CREAT)

    shown = {f.path: (f.owner, f.group, f.mode) for f in w("listdir", by=mate, path="/team", recursive=True).files}
    assert shown == {
        "/team/f": ("mate", "staff", 0o640),
        "/team/d": ("mate", "staff", 0o2755),
        "/team/d/g": ("mate", "staff", 0o600),
    }
    assert w("stat", by=mate, path="/own").file.group == "mate"
    assert outcome(w, owner, "read", path="/team/f") == "ok"


def test_who_is_not_in_the_group_cannot_set_a_directory_to_hand_it_on(w: World) -> None:
    admin = w.kernel.connect(ADMIN, "client", 0)
    w("mkdir", path="/d")
    w("chown", by=admin, path="/d", group="staff")

    w("chmod", path="/d", mode=0o2755)

    assert w("stat", path="/d").file.mode == 0o755


def test_in_a_sticky_directory_only_owners_take_names_away(w: World) -> None:
    pids = connected(w)
    w("mkdir", by=pids["owner"], path="/d")
    w("chmod", by=pids["owner"], path="/d", mode=0o1777)
    w("open", by=pids["group"], path="/d/mates", flags=CREAT, mode=0o666)
    w("open", by=pids["other"], path="/d/strangers", flags=CREAT, mode=0o666)

    assert outcome(w, pids["other"], "unlink", path="/d/mates") == "EPERM"
    assert outcome(w, pids["other"], "rename", old="/d/mates", new="/d/taken") == "EPERM"
    assert outcome(w, pids["other"], "rename", old="/d/strangers", new="/d/mates") == "EPERM"
    assert outcome(w, pids["group"], "unlink", path="/d/mates") == "ok"
    assert outcome(w, pids["owner"], "unlink", path="/d/strangers") == "ok"


def test_only_the_owner_names_its_file_again(w: World) -> None:
    pids = connected(w)
    w("open", by=pids["owner"], path="/f", flags=CREAT, mode=0o644)
    fd = w("open", by=pids["other"], path="/f").fd

    assert outcome(w, pids["other"], "link", fd=fd, path="/g") == "EPERM"


def test_chmod_and_chown_are_the_owners_and_giving_away_is_the_admins(w: World) -> None:
    pids = connected(w)
    w("open", by=pids["owner"], path="/f", flags=CREAT)

    for who, heard in (("group", "EPERM"), ("other", "EPERM"), ("owner", "ok"), ("admin", "ok")):
        assert outcome(w, pids[who], "chmod", path="/f", mode=0o666) == heard
        assert outcome(w, pids[who], "chown", path="/f", group="staff" if who != "other" else "others") == heard
    assert outcome(w, pids["owner"], "chown", path="/f", group="others") == "EPERM", "it is not in that group"
    assert outcome(w, pids["owner"], "chown", path="/f", owner="mate") == "EPERM"
    assert outcome(w, pids["owner"], "chown", path="/f", owner="owner") == "ok"
    assert outcome(w, pids["admin"], "chown", path="/f", owner="mate", group="others") == "ok"
    stat = w("stat", by=pids["admin"], path="/f").file
    assert (stat.owner, stat.group, stat.mode) == ("mate", "others", 0o666)
    for args in ({"owner": ""}, {"group": "x" * 256}):
        assert outcome(w, pids["admin"], "chown", path="/f", **args) == "EINVAL"


@pytest.mark.parametrize(("path", "mode"), [("/f", 0o1777), ("/f", -1), ("/d", 0o4777)])
def test_a_mode_that_is_none_is_refused(w: World, path: str, mode: int) -> None:
    w("open", path="/f", flags=CREAT)
    w("mkdir", path="/d")

    assert outcome(w, w.pid, "chmod", path=path, mode=mode) == "EINVAL"


def test_an_fd_keeps_its_rights_when_the_mode_goes(w: World) -> None:
    fd = w("open", path="/f", tokens=[1], flags=CREAT | RDWR).fd

    w("chmod", fd=fd, mode=0)

    w("append", fd=fd, tokens=[2])
    assert w.tokens(fd) == [1, 2]
    assert outcome(w, w.pid, "open", path="/f") == "EACCES"
    assert outcome(w, w.pid, "open", path="/f", flags=RDWR | TRUNC) == "EACCES"
    assert w("stat", path="/f").file.mode == 0, "its owner still sees it"


def test_a_mode_of_others_says_nothing_of_the_owner(w: World) -> None:
    w("open", path="/f", flags=CREAT, mode=0o044)

    assert outcome(w, w.pid, "read", path="/f") == "EACCES"
    assert outcome(w, w.kernel.connect(OTHER, "client", 0), "read", path="/f") == "ok"


def test_open_may_demand_that_a_file_is_exact(w: World) -> None:
    made = w("open", path="/f", tokens=[1], flags=CREAT)

    assert w("open", path="/f", require="exact").length == 1
    w.kernel.files.inodes[made.ino].fidelity = "pruned"
    assert outcome(w, w.pid, "open", path="/f", require="exact") == "EINVAL"
    assert outcome(w, w.pid, "open", path="/f") == "ok"
    assert outcome(w, w.pid, "open", path="/f", require="perfect") == "EINVAL"
    assert w("stat", path="/f").file.fidelity == "pruned"


def test_a_principal_is_in_the_group_of_its_own_name(w: World) -> None:
    owner = w.kernel.connect(Credentials("owner", ("me",)), "client", 0)
    w("open", by=owner, path="/f", tokens=[1], flags=CREAT, mode=0o640)
    w("chown", by=owner, path="/f", group=ME.principal)

    assert outcome(w, w.pid, "read", path="/f") == "ok"
