"""extract and concat in the kernel: arguments, lineage, recipes, and that a file which was not made never was."""

from dataclasses import replace

import pytest

from tests.unit.kernel.world import MODEL, World
from vllm_symphony import errors
from vllm_symphony.abi.record import SavedPage
from vllm_symphony.abi.types import Span, unpack_tokens
from vllm_symphony.kernel.effect import ConcatJob, CreateFile, DropFile, ExtractJob, ForkFile, ForwardJob, SaveDone
from vllm_symphony.kernel.fs import recipe
from vllm_symphony.kernel.rebuild import rebuild
from vllm_symphony.kernel.saving import Save


def spans(*pairs: tuple[int, int]) -> tuple[Span, ...]:
    return tuple(Span(*pair) for pair in pairs)


def extract(w: World, fd: int, *pairs: tuple[int, int], positions: str = "keep") -> int:
    """A whole extract: its fd."""
    call = w.start("extract", fd=fd, spans=spans(*pairs), positions=positions)
    if w.is_open(call):
        w.step()
    made: int = w.result(call).fd
    return made


def concat(w: World, *fds: int, mode: str = "rotate") -> int:
    call = w.start("concat", fds=fds, mode=mode)
    if w.is_open(call):
        w.step()
    made: int = w.result(call).fd
    return made


def positions(w: World, fd: int) -> list[int]:
    return unpack_tokens(w("read", fd=fd).positions)


def fidelity(w: World, fd: int) -> str:
    word: str = w("stat", fd=fd).file.fidelity
    return word


def inode(w: World, fd: int):
    return w.kernel.processes[w.pid].fds.files[fd].inode


# ---- extract


def test_an_extract_keeps_or_closes_the_gaps(w: World) -> None:
    fd = w.file(range(10, 20))

    kept, packed = extract(w, fd, (0, 2), (5, 8)), extract(w, fd, (0, 2), (5, 8), positions="compact")

    assert w.tokens(kept) == w.tokens(packed) == [10, 11, 15, 16, 17]
    assert (positions(w, kept), positions(w, packed)) == ([0, 1, 5, 6, 7], [0, 1, 2, 3, 4])
    assert (fidelity(w, fd), fidelity(w, kept), fidelity(w, packed)) == ("exact", "pruned", "approximate")
    w.check()


def test_an_extract_of_the_first_tokens_is_a_fork(w: World) -> None:
    fd = w.file(range(10, 20))

    for mode in ("keep", "compact"):
        part = extract(w, fd, (0, 3), (3, 6), positions=mode)
        assert (w.tokens(part), fidelity(w, part)) == ([10, 11, 12, 13, 14, 15], "exact")

    assert not w.sent(ExtractJob) and len(w.sent(ForkFile)) == 2
    w.check()


def test_first_tokens_that_do_not_stand_at_the_beginning_are_moved_by_compact(w: World) -> None:
    fd = w("open", flags=0x10).fd
    w("append", fd=fd, tokens=[1, 2, 3], start=7)

    packed = extract(w, fd, (0, 3), positions="compact")

    assert (positions(w, packed), fidelity(w, packed)) == ([0, 1, 2], "approximate")
    assert w.sent(ExtractJob)[0].compact


@pytest.mark.parametrize("pairs", [(), ((0, 0),), ((2, 1),), ((-1, 2),), ((0, 11),), ((3, 5), (4, 6)), ((5, 6), (0, 1))])
def test_spans_must_ascend_within_the_file(w: World, pairs: tuple[tuple[int, int], ...]) -> None:
    fd = w.file(range(10))

    with pytest.raises(errors.InvalidArgument):
        w("extract", fd=fd, spans=spans(*pairs))
    w.check()


def test_what_an_edit_refuses(w: World) -> None:
    fd = w.file(range(10))

    for op, args in (
        ("extract", {"fd": fd, "spans": spans((0, 1), (3, 4)), "positions": "loose"}),
        ("extract", {"fd": fd, "spans": spans((0, 1), (3, 4)), "timeout_s": 0.0}),
        ("concat", {"fds": ()}),
        ("concat", {"fds": (fd,), "mode": "glue"}),
    ):
        with pytest.raises(errors.InvalidArgument):
            w(op, **args)
    with pytest.raises(errors.BadFile):
        w("extract", fd=99, spans=spans((0, 1)))
    with pytest.raises(errors.BadFile):
        w("concat", fds=(fd, 99))
    w.check()


def test_a_model_that_cannot_says_why(w: World) -> None:
    w = World(replace(MODEL, unsupported={"extract": "it has a window", "rotate": "it has no rotation"}))
    fd = w.file(range(10))

    with pytest.raises(errors.NotSupported, match="extract is not possible with this model: it has a window"):
        w("extract", fd=fd, spans=spans((0, 1), (3, 4)))
    with pytest.raises(errors.NotSupported, match="it has no rotation"):
        w("concat", fds=(fd, fd), mode="rotate")

    assert w.tokens(extract(w, fd, (0, 4))) == [0, 1, 2, 3]  # a fork is no surgery
    assert len(w.tokens(concat(w, fd, fd, mode="recompute"))) == 20


def test_an_edit_that_fails_leaves_no_file(w: World) -> None:
    fd = w.file(range(10))
    call = w.start("extract", fd=fd, spans=spans((0, 1), (3, 4)))

    w.fail(errors.OutOfPages("no page is free"))

    with pytest.raises(errors.OutOfPages):
        w.result(call)
    assert len(w.kernel.files.inodes) == 1 and not w.sent(DropFile)
    w.check()


def test_an_edit_can_be_cancelled_and_runs_out_of_time(w: World) -> None:
    fd = w.file(range(10))
    first = w.start("extract", fd=fd, spans=spans((0, 1), (3, 4)))
    second = w.start("concat", fds=(fd, fd), mode="rotate", timeout_s=2.0)

    w("cancel", target=first)
    w.pass_time(3)
    w.reap()

    with pytest.raises(errors.Interrupted):
        w.result(first)
    with pytest.raises(errors.TimedOut):
        w.result(second)
    assert len(w.kernel.files.inodes) == 1
    w.check()


def test_the_file_of_a_process_that_is_gone_is_dropped(w: World) -> None:
    pid = w.kernel.connect(w.kernel.processes[w.pid].cred, "client", w.now_ns)
    fd = w.file(range(10), by=pid)
    w.start("extract", by=pid, fd=fd, spans=spans((0, 1), (3, 4)))

    w.disconnect(pid)
    w.step()  # it was done by then

    assert not w.kernel.files.inodes and len(w.sent(DropFile)) == 2
    w.check()


def test_the_source_may_be_changed_and_closed_meanwhile(w: World) -> None:
    fd = w.file(range(10))
    call = w.start("extract", fd=fd, spans=spans((0, 1), (3, 6)))

    w("truncate", fd=fd, length=2)
    w("close", fd=fd)
    w.step()

    assert w.tokens(w.result(call).fd) == [0, 3, 4, 5]
    w.check()


def test_an_edit_needs_room_for_an_fd_and_for_a_file() -> None:
    w = World(fds=1)
    fd = w.file(range(10))
    for op, args in (("extract", {"fd": fd, "spans": spans((0, 1), (3, 4))}), ("concat", {"fds": (fd, fd), "mode": "rotate"})):
        with pytest.raises(errors.TooManyFiles):
            w(op, **args)

    w = World(files=1)
    fd = w.file(range(10))
    with pytest.raises(errors.QuotaExceeded):
        w("extract", fd=fd, spans=spans((0, 1), (3, 4)))
    w.check()


def test_an_edit_that_finds_no_fd_any_more_drops_its_file() -> None:
    w = World(fds=2)
    fd = w.file(range(10))
    call = w.start("extract", fd=fd, spans=spans((0, 1), (3, 4)))

    w.file([1])
    w.step()

    with pytest.raises(errors.TooManyFiles):
        w.result(call)
    assert len(w.sent(DropFile)) == 1
    w.check()


# ---- concat


def test_concat_computes_the_rest_or_rotates_it(w: World) -> None:
    a, b = w.file([1, 2, 3]), w.file([4, 5])
    w("append", fd=a, tokens=[9], start=6)

    computed, rotated = concat(w, a, b, mode="recompute"), concat(w, a, b)

    for fd in (computed, rotated):
        assert (w.tokens(fd), positions(w, fd)) == ([1, 2, 3, 9, 4, 5], [0, 1, 2, 6, 7, 8])
    assert (fidelity(w, computed), fidelity(w, rotated)) == ("exact", "approximate")
    assert len(w.sent(ConcatJob)) == 1
    w.check()


def test_concat_past_the_models_positions_is_efbig(w: World) -> None:
    fd = w.file(range(40))

    for mode in ("recompute", "rotate"):
        with pytest.raises(errors.ContextTooLong):
            w("concat", fds=(fd, fd), mode=mode)


def test_concat_with_nothing_is_a_fork(w: World) -> None:
    a, empty = w.file([1, 2, 3]), w("open", flags=0x10).fd

    assert w.tokens(concat(w, a)) == w.tokens(concat(w, a, empty, empty)) == [1, 2, 3]
    assert w.tokens(concat(w, empty, a)) == [1, 2, 3]
    w.check()


# ---- lineage and recipes


def test_lineage_is_inherited_and_never_gets_better(w: World) -> None:
    fd = w.file(range(20))
    pruned = extract(w, fd, (0, 4), (8, 12))
    packed = extract(w, pruned, (1, 3), (4, 8), positions="compact")

    assert fidelity(w, w("fork", fd=pruned).fd) == fidelity(w, extract(w, pruned, (0, 3))) == "pruned"
    assert fidelity(w, extract(w, packed, (0, 1), (2, 4))) == "approximate"
    assert fidelity(w, concat(w, packed, fd, mode="recompute")) == "approximate"
    assert fidelity(w, concat(w, fd, packed, mode="recompute")) == "exact"
    w("truncate", fd=packed, length=2)
    assert fidelity(w, packed) == "approximate"
    w("truncate", fd=packed, length=0)
    assert fidelity(w, packed) == "exact"


def test_one_token_is_exact_for_it_is_always_computed(w: World) -> None:
    fd = w.file(range(10, 20))
    packed = extract(w, fd, (0, 2), (5, 9), positions="compact")
    empty, one = w("open", flags=0x10).fd, w.file([7])

    made = [extract(w, fd, (4, 5)), extract(w, fd, (4, 5), positions="compact"), concat(w, empty, one)]
    inode(w, packed).saved = (SavedPage("a.seg", 0, 4), SavedPage("a.seg", 1, 1))
    w("truncate", fd=packed, length=4)

    assert [fidelity(w, one) for one in made] == ["exact"] * 3 and fidelity(w, packed) == "approximate"
    assert sum(page.num_tokens for page in inode(w, packed).saved) == 3, "what is last now is computed again"
    w("truncate", fd=packed, length=1)
    assert fidelity(w, packed) == "exact" and inode(w, packed).recipe is None and inode(w, packed).saved == ()


@pytest.mark.parametrize(("length", "num_saved"), [(6, 5), (1, 0)])
def test_pages_of_an_edited_file_that_is_one_token_when_they_are_saved_are_not_its(w: World, length: int, num_saved: int) -> None:
    fd = extract(w, w.file(range(10, 20)), (0, 2), (5, 9), positions="compact")
    save = Save(w.kernel, inode(w, fd), lambda m, error, num_bytes, now_ns: None)
    w("truncate", fd=fd, length=length)

    save.completed(w.kernel, SaveDone(save.id, (SavedPage("a.seg", 0, 4), SavedPage("a.seg", 1, 1)), 5, 512), 0)

    assert sum(page.num_tokens for page in inode(w, fd).saved) == num_saved


def test_open_can_require_exact_keys(w: World) -> None:
    fd = extract(w, w.file(range(20)), (0, 4), (8, 12))
    w("link", fd=fd, path="/pruned")

    with pytest.raises(errors.SymphonyError, match="pruned"):
        w("open", path="/pruned", require="exact")
    assert w("open", path="/pruned").length == 8


def test_an_exact_file_has_no_recipe_and_appending_costs_none(w: World) -> None:
    fd = w.file(range(20))
    pruned = extract(w, fd, (0, 4), (8, 12))
    size = len(inode(w, pruned).recipe)

    w("append", fd=pruned, tokens=range(30))

    assert inode(w, fd).recipe is None
    assert len(inode(w, pruned).recipe) == size


def test_a_recipe_that_grows_too_long_is_given_up(w: World) -> None:
    pruned = extract(w, w.file(range(20)), (0, 4), (8, 12))
    for _ in range(300):
        w("append", fd=pruned, tokens=[1, 2])
        fork = extract(w, pruned, (0, 4), (5, 10), positions="compact")
        w("close", fd=pruned)
        pruned = fork

    assert inode(w, pruned).recipe == recipe.NONE


def rebuilt(w: World, fd: int) -> list[object]:
    """Rebuild the file, the device answering all; what `on_done` heard."""
    heard: list[object] = []
    rebuild(w.kernel, inode(w, fd), lambda m, error, now_ns: heard.append(error))
    w.drain()
    while not heard:
        w.step()
    return heard


def test_a_rebuilt_file_was_made_as_it_was_before(w: World) -> None:
    a, b = w.file(range(20)), w.file([50, 51, 52])
    w("append", fd=a, tokens=[60, 61], start=30)
    x = extract(w, a, (0, 4), (18, 22))
    w("append", fd=x, tokens=[7, 8, 9])
    w("truncate", fd=x, length=6)
    w("append", fd=x, tokens=[70])
    y = concat(w, extract(w, x, (1, 3), (4, 7), positions="compact"), b)
    w("append", fd=y, tokens=[80, 81])
    tokens, before = w.tokens(y), len(w.effects)
    inode(w, y).stale, inode(w, y).frontier = True, 0

    assert rebuilt(w, y) == [None]

    assert w.tokens(y) == tokens and not inode(w, y).stale
    assert inode(w, y).frontier == len(tokens) - 3  # not what was added, nor the last one that was joined
    done = [e for e in w.effects[before:] if isinstance(e, ExtractJob | ConcatJob)]
    assert [type(e).__name__ for e in done] == ["ExtractJob", "ExtractJob", "ConcatJob"]
    assert [s.stop for s in done[0].spans] == [4, 22] and done[1].compact
    w.check()


def test_a_recipe_that_begins_with_an_empty_file_is_carried_out(w: World) -> None:
    a, empty, b = w.file(range(5)), w("open", flags=0x10).fd, w.file([50, 51, 52])
    joined = concat(w, empty, a, b)
    tokens = w.tokens(joined)
    inode(w, joined).stale, inode(w, joined).frontier = True, 0

    assert rebuilt(w, joined) == [None]

    assert w.tokens(joined) == tokens and not inode(w, joined).stale
    w.check()


def test_an_exact_file_is_rebuilt_by_a_forward(w: World) -> None:
    fd = w.file(range(5))
    inode(w, fd).stale = True

    assert rebuilt(w, fd) == [None]

    assert w.sent(ForwardJob)[-1].tokens == [] and inode(w, fd).frontier == 5 and not inode(w, fd).stale


def test_a_file_is_busy_while_it_is_rebuilt_and_as_before_when_that_fails(w: World) -> None:
    fd = extract(w, w.file(range(20)), (0, 4), (8, 12))
    inode(w, fd).stale = True
    heard: list[object] = []
    rebuild(w.kernel, inode(w, fd), lambda m, error, now_ns: heard.append(error))
    w.drain()
    with pytest.raises(errors.FileBusy):
        w("truncate", fd=fd, length=1)

    w.fail(errors.OutOfPages("no page is free"))

    assert isinstance(heard[0], errors.OutOfPages) and inode(w, fd).stale
    assert len(w.sent(CreateFile)) - len(w.sent(DropFile)) == 1
    w.check()


def test_an_edited_file_without_recipe_cannot_be_rebuilt(w: World) -> None:
    fd = extract(w, w.file(range(20)), (0, 4), (8, 12))
    inode(w, fd).recipe = recipe.NONE

    with pytest.raises(errors.StaleFile, match="only its tokens are left"):
        rebuild(w.kernel, inode(w, fd), lambda m, error, now_ns: None)


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("forward", {"tokens": [1]}),
        ("generate", {}),
        ("sample", {}),
        ("logits", {}),
        ("fork", {}),
        ("extract", {"spans": spans((0, 1), (3, 4))}),
    ],
)
def test_a_stale_edited_file_can_only_be_read(w: World, op: str, args: dict) -> None:
    fd = extract(w, w.file(range(20)), (0, 4), (8, 12))
    inode(w, fd).stale = True

    with pytest.raises(errors.StaleFile, match="fsck --rebuild"):
        w(op, fd=fd, **args)
    with pytest.raises(errors.StaleFile):
        w("concat", fds=(fd, fd))
    assert len(w.tokens(fd)) == 8


def test_a_stale_file_that_is_cut_to_nothing_is_a_new_one(w: World) -> None:
    fd = extract(w, w.file(range(20)), (0, 4), (8, 12))
    inode(w, fd).stale = True

    w("truncate", fd=fd, length=0)

    stat = w("stat", fd=fd).file
    assert (stat.stale, stat.fidelity) == (False, "exact")
    w("append", fd=fd, tokens=[1, 2])
    w("fork", fd=fd)
