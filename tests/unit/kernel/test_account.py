"""What principals hold, what they may hold, and that a refusal changes nothing."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.counts import count
from tests.unit.kernel.world import ADMIN, MODEL, OTHER, World
from vllm_symphony import errors
from vllm_symphony.abi.calls import Forward, Span
from vllm_symphony.abi.record import QuotaRecord
from vllm_symphony.abi.types import OpenFlags, Quota, pack_tokens
from vllm_symphony.errors import SymphonyError
from vllm_symphony.kernel.effect import Capacity, LimitDomain, Residency
from vllm_symphony.kernel.rebuild import rebuild

PAGE = MODEL.page_size
CREAT, RDWR = int(OpenFlags.CREAT), int(OpenFlags.RDWR)


def resident(w: World) -> World:
    """A device that has every computed page."""

    def residency(ino: int) -> Residency:
        inode = w.kernel.files.inodes[ino]
        return Residency(inode.frontier, device_pages=inode.num_pages(PAGE))

    w.kernel.residency = residency
    return w


@pytest.fixture
def root(w: World) -> int:
    resident(w)
    pid: int = w.kernel.connect(ADMIN, "client", 0)
    return pid


def limit(w: World, root: int, principal: str = "me", **limits: int) -> None:
    w("setquota", by=root, principal=principal, **limits)


def used(w: World, *, by: int | None = None) -> Quota:
    quota: Quota = w("getquota", by=by).quota
    return quota


def computed(w: World, num_tokens: int, *, by: int | None = None) -> int:
    """A file whose pages are all computed."""
    fd = w.file([1], by=by)
    w.start("forward", by=by, fd=fd, tokens=[1] * (num_tokens - 1))
    w.step()
    return fd


def test_what_one_holds_is_counted(w: World, root: int) -> None:
    fd = computed(w, 10)
    w("fork", fd=fd)
    w("mkdir", path="/kb")

    quota = used(w)

    assert (quota.used_files, quota.used_device_pages) == (3, 3)
    assert w("getquota", by=root, principal="me").quota == quota


def test_a_shared_page_costs_each_principal_its_part(w: World, root: int) -> None:
    other = w.kernel.connect(OTHER, "client", 0)
    fd = computed(w, 8)
    w("link", fd=fd, path="/shared")
    w("chmod", path="/shared", mode=0o644)
    theirs = w("open", by=other, path="/shared").fd
    w("fork", by=other, fd=theirs)

    assert used(w).used_device_pages == used(w, by=other).used_device_pages == 1
    assert w("stat", path="/shared").file.charge == 1


def test_files_have_a_limit(w: World, root: int) -> None:
    fd = w.file([1])
    limit(w, root, files=2)
    w("mkdir", path="/kb")
    before = w.kernel.counters()

    for op, args in (
        ("open", {"tokens": [1]}),
        ("open", {"path": "/a", "flags": CREAT}),
        ("fork", {"fd": fd}),
        ("mkdir", {"path": "/b"}),
    ):
        with pytest.raises(errors.QuotaExceeded) as caught:
            w(op, **args)
        assert caught.value.values == {"principal": "me", "what": "files", "limit": 2, "used": 2}
    assert {**w.kernel.counters(), "calls_ended": 0} == {**before, "calls_ended": 0}
    w("rmdir", path="/kb")
    w("fork", fd=fd)


def test_a_file_is_given_only_to_who_may_have_it(w: World, root: int) -> None:
    limit(w, root, "other", files=0)
    w("open", path="/a", flags=CREAT)

    with pytest.raises(errors.QuotaExceeded):
        w("chown", by=root, path="/a", owner="other")
    limit(w, root, "other", files=-1)
    w("chown", by=root, path="/a", owner="other")

    assert used(w).used_files == 0


def test_forward_past_the_quota_leaves_the_file_as_it_was(w: World, root: int) -> None:
    fd = computed(w, 8)
    limit(w, root, device_pages=3)

    with pytest.raises(errors.QuotaExceeded) as caught:
        w("forward", fd=fd, tokens=[1] * 5)
    assert caught.value.values == {"principal": "me", "what": "device_pages", "limit": 3, "used": 2}
    assert w("forward_many", items=(Forward(fd, pack_tokens([1] * 5)),)).errors[0].reason == "EDQUOT"
    w.start("forward", fd=fd, tokens=[1] * 4)
    w.step()

    assert len(w.tokens(fd)) == 12
    assert used(w).used_device_pages == 3


def test_tokens_that_nobody_computed_cost_nothing_until_somebody_does(w: World, root: int) -> None:
    limit(w, root, device_pages=2)
    fd = w.file(range(12))

    with pytest.raises(errors.QuotaExceeded):
        w("forward", fd=fd)
    w("truncate", fd=fd, length=8)
    w.start("forward", fd=fd)
    w.step()


@pytest.mark.parametrize("num_forks", range(1, 24))
def test_parts_of_a_page_add_up_to_whole_pages(w: World, root: int, num_forks: int) -> None:
    fd = computed(w, PAGE)
    for _ in range(num_forks):
        w("fork", fd=fd)
    limit(w, root, device_pages=2)

    w.start("generate", fd=fd, max_tokens=1)

    assert used(w).used_device_pages == 2


def test_a_limit_below_what_is_held_refuses_only_what_needs_more(w: World, root: int) -> None:
    fd = computed(w, 10)
    limit(w, root, device_pages=1)

    with pytest.raises(errors.QuotaExceeded):
        w("forward", fd=fd, tokens=[1] * 3)
    w.start("forward", fd=fd)
    w.step()
    call = w.start("generate", fd=fd, max_tokens=50)
    assert w.job().max_tokens == 2
    w.deliver([7, 7])
    w.step()

    assert w.result(call).reason == "quota"
    with pytest.raises(errors.QuotaExceeded):
        w("generate", fd=fd)


def test_what_running_calls_may_need_counts(w: World, root: int) -> None:
    first, second = w.file([1]), w.file([1])
    limit(w, root, device_pages=3)
    call = w.start("generate", fd=first, max_tokens=7)

    with pytest.raises(errors.QuotaExceeded):
        w("forward", fd=second, tokens=[1] * 4)
    w.step()
    w.start("forward", fd=second, tokens=[1] * 4)

    assert not w.is_open(call)
    w.step()


def test_generate_is_cut_where_the_quota_ends(w: World, root: int) -> None:
    fd = computed(w, 6)
    limit(w, root, device_pages=3)
    call = w.start("generate", fd=fd, max_tokens=50)

    assert w.job().max_tokens == 6
    w.deliver([7] * 6)
    w.step()

    assert w.result(call).reason == "quota"
    with pytest.raises(errors.QuotaExceeded):
        w("generate", fd=fd)


def test_a_generate_that_stops_before_its_quota_ends_says_why(w: World, root: int) -> None:
    fd = computed(w, 6)
    limit(w, root, device_pages=3)
    call = w.start("generate", fd=fd, max_tokens=50)
    w.deliver([7] * 3)
    w.step(reason="stop")
    second = w.start("generate", fd=fd, max_tokens=2)
    w.deliver([7] * 2)
    w.step()

    assert (w.result(call).reason, w.result(second).reason) == ("stop", "length")


def test_a_page_that_must_be_copied_counts(w: World, root: int) -> None:
    fd = computed(w, 6)
    fork = w("fork", fd=fd).fd
    limit(w, root, device_pages=2)

    with pytest.raises(errors.QuotaExceeded):
        w("forward", fd=fork, tokens=[1])
    limit(w, root, device_pages=3)
    w.start("forward", fd=fork, tokens=[1])
    w.step()

    assert used(w).used_device_pages == 3


def test_pages_off_the_device_do_not_count_until_they_come_back(w: World, root: int) -> None:
    cold = computed(w, 12)
    limit(w, root, device_pages=3)
    w.kernel.residency = lambda _: Residency(12, host_pages=3)
    fd = computed(w, 12)
    resident(w)

    with pytest.raises(errors.QuotaExceeded):
        w("forward", fd=fd, tokens=[1])
    w("close", fd=cold)
    with pytest.raises(errors.QuotaExceeded):
        w("forward", fd=fd, tokens=[1])
    limit(w, root, device_pages=4)
    w.start("forward", fd=fd, tokens=[1])
    w.step()


def test_pages_are_brought_back_only_within_the_quota(w: World, root: int) -> None:
    fd = computed(w, 12)
    limit(w, root, device_pages=2)
    w.kernel.residency = lambda _: Residency(12, host_pages=3)

    with pytest.raises(errors.QuotaExceeded):
        w("advise", fd=fd, advice="willneed")
    limit(w, root, device_pages=3)
    w("advise", fd=fd, advice="willneed")


def test_a_fork_that_the_device_has_not_heard_of_has_what_its_source_has(w: World, root: int) -> None:
    fd = computed(w, 14)
    there = w.kernel.residency
    fork = w("fork", fd=fd)
    w.kernel.residency = lambda ino: Residency(known=False) if ino == fork.ino else there(ino)
    limit(w, root, device_pages=4)

    assert used(w).used_device_pages == 4
    with pytest.raises(errors.QuotaExceeded):
        w("forward", fd=fd, tokens=[1])


def test_a_fork_whose_pages_have_left_the_device_has_none_though_its_source_has(w: World, root: int) -> None:
    fd = computed(w, 14)
    there = w.kernel.residency
    fork = w("fork", fd=fd)
    w.kernel.residency = lambda ino: Residency(14, host_pages=4) if ino == fork.ino else there(ino)
    limit(w, root, device_pages=3)

    assert used(w).used_device_pages == 2
    with pytest.raises(errors.QuotaExceeded):
        w("forward", fd=fork.fd)


@pytest.mark.parametrize(
    ("spans", "positions", "pages"),
    [
        ((Span(0, 8), Span(9, 12)), "keep", 4),  # two shared, one of its own
        ((Span(0, 8), Span(9, 12)), "compact", 4),
        ((Span(0, 7), Span(9, 12)), "keep", 5),
        ((Span(1, 8), Span(9, 12)), "keep", 6),
    ],
)
def test_an_extract_shares_the_whole_pages_at_its_beginning(
    w: World, root: int, spans: tuple[Span, ...], positions: str, pages: int
) -> None:
    fd = computed(w, 12)
    limit(w, root, device_pages=pages - 1)
    before = w.kernel.counters()

    with pytest.raises(errors.QuotaExceeded):
        w("extract", fd=fd, spans=spans, positions=positions)
    assert {**w.kernel.counters(), "calls_ended": 0} == {**before, "calls_ended": 0}
    limit(w, root, device_pages=pages)
    w.start("extract", fd=fd, spans=spans, positions=positions)

    assert used(w).used_device_pages == pages
    w.step()
    assert used(w).used_device_pages == pages
    w.check()


def test_a_compact_extract_shares_nothing_behind_a_gap(w: World, root: int) -> None:
    fd = computed(w, 4)
    w.start("forward", fd=fd, tokens=[1] * 8, start=9)
    w.step()
    w.start("extract", fd=fd, spans=(Span(0, 8), Span(9, 12)), positions="compact")
    w.step()

    assert used(w).used_device_pages == 3 + 2


@pytest.mark.parametrize("begins_empty", [False, True])
def test_a_rotated_concat_shares_the_pages_of_what_it_begins_with(w: World, root: int, begins_empty: bool) -> None:
    first, last = computed(w, 8), computed(w, 4)
    fds = (w.file([]), first, last) if begins_empty else (first, last)
    limit(w, root, device_pages=4)

    w.start("concat", fds=fds, mode="rotate")
    w.step()

    assert used(w).used_device_pages == 4


def test_an_edit_that_fails_gives_its_part_of_the_pages_back(w: World, root: int) -> None:
    other = w.kernel.connect(OTHER, "client", 0)
    fd = computed(w, 8)
    w("link", fd=fd, path="/shared")
    w("chmod", path="/shared", mode=0o644)
    theirs = w("open", by=other, path="/shared").fd
    w.start("extract", by=other, fd=theirs, spans=(Span(0, 4), Span(5, 8)))
    assert (used(w).used_device_pages, used(w, by=other).used_device_pages) == (1.5, 1.5)

    w.fail()

    assert (used(w).used_device_pages, used(w, by=other).used_device_pages) == (2, 0)
    w.check()


@pytest.mark.parametrize("op", ["sample", "logits"])
def test_a_row_of_an_uncomputed_file_is_asked_for_only_within_the_quota(w: World, root: int, op: str) -> None:
    fd = w.file(range(12))
    limit(w, root, device_pages=2)
    before = w.kernel.counters()

    with pytest.raises(errors.QuotaExceeded):
        w(op, fd=fd)
    with pytest.raises(errors.QuotaExceeded):
        w(op, fd=fd, position=8)
    assert {**w.kernel.counters(), "calls_ended": 0} == {**before, "calls_ended": 0}
    w.start(op, fd=fd, position=7)

    assert used(w).used_device_pages == 2
    w.step()
    assert used(w).used_device_pages == 0


def test_a_row_of_what_is_computed_may_always_be_had(w: World, root: int) -> None:
    fd = computed(w, 12)
    limit(w, root, device_pages=1)

    w.start("sample", fd=fd)
    w.start("logits", fd=fd, position=2)
    w.step()
    w.step()

    assert used(w).used_device_pages == 3


def test_of_several_rows_of_a_file_the_last_one_counts(w: World, root: int) -> None:
    fd, other = w.file(range(12)), w.file(range(12))
    limit(w, root, device_pages=3)
    w.start("sample", fd=fd)
    w.start("sample", fd=fd, position=1)

    assert used(w).used_device_pages == 3
    with pytest.raises(errors.QuotaExceeded):
        w("sample", fd=other, position=0)
    w.start("sample", fd=fd, position=11)


def test_pages_that_a_rebuild_makes_count(w: World, root: int) -> None:
    source, fd = w.file(range(20)), w.file([1])
    call = w.start("extract", fd=source, spans=(Span(0, 4), Span(8, 13)))
    w.step()
    edited = w.kernel.files.inodes[w.result(call).ino]
    edited.stale, edited.frontier = True, 0
    limit(w, root, device_pages=4)
    w.start("forward", fd=fd, tokens=[1])
    w.step()

    rebuild(w.kernel, edited, lambda m, error, now_ns: None)
    w.drain()
    w.step()

    assert used(w).used_device_pages == 3
    with pytest.raises(errors.QuotaExceeded):
        w("forward", fd=fd, tokens=[1] * 8)
    w.check()


def test_what_is_rebuilt_is_shared_with_nobody(w: World, root: int) -> None:
    source = w.file(range(20))
    call = w.start("extract", fd=source, spans=(Span(0, 4), Span(8, 13)))
    w.step()
    edited = w.kernel.files.inodes[w.result(call).ino]
    w("fork", fd=w.result(call).fd)
    edited.stale = True
    assert used(w).used_device_pages == 2

    rebuild(w.kernel, edited, lambda m, error, now_ns: None)
    w.drain()
    w.step()

    assert used(w).used_device_pages == 4


def test_when_another_owner_lets_go_its_part_comes_back(w: World, root: int) -> None:
    other = w.kernel.connect(OTHER, "client", 0)
    fd = computed(w, 16)
    w("link", fd=fd, path="/shared")
    w("chmod", path="/shared", mode=0o644)
    theirs = w("open", by=other, path="/shared").fd
    fork = w("fork", by=other, fd=theirs).fd
    limit(w, root, device_pages=4)
    w.start("forward", fd=fd, tokens=[1])
    w.step()

    w("close", by=other, fd=fork)

    with pytest.raises(errors.QuotaExceeded):
        w("forward", fd=fd, tokens=[1] * 4)


def test_all_files_are_counted_only_when_the_bound_passes_the_quota(w: World, root: int) -> None:
    fd = w.file([1])
    for _ in range(20):
        w.file([1])
    limit(w, root, device_pages=12)
    asked: list[int] = []
    there = w.kernel.residency
    w.kernel.residency = lambda ino: asked.append(ino) or there(ino)  # type: ignore[func-returns-value]

    for _ in range(40):
        w.start("forward", fd=fd, tokens=[1])
        w.step()

    assert len(asked) < 40 + 3 * 21


def test_without_a_quota_nobody_counts(w: World, root: int) -> None:
    w.kernel.residency = lambda ino: pytest.fail(f"asked for {ino}")

    computed(w, 8)


def test_an_edited_copy_needs_its_pages(w: World, root: int) -> None:
    fd = computed(w, 12)
    limit(w, root, device_pages=4)
    before = len(w.kernel.files.inodes)

    for op, args in (
        ("extract", {"fd": fd, "spans": (Span(4, 12),)}),
        ("concat", {"fds": (fd, fd), "mode": "rotate"}),
    ):
        with pytest.raises(errors.QuotaExceeded):
            w(op, **args)

    assert len(w.kernel.files.inodes) == before


def test_pins_have_a_limit_for_all_and_a_quota_for_one(w: World, root: int) -> None:
    account = w.kernel.account
    inodes = [w.kernel.files.inodes[ino] for ino in (w("open", tokens=[1] * 60).ino for _ in range(40))]
    for inode in inodes[:33]:
        account.pin(inode)

    with pytest.raises(errors.QuotaExceeded) as caught:
        account.pin(inodes[33])
    assert caught.value.values["limit"] == MODEL.num_pages // 2
    account.unpin(inodes[0])
    account.pin(inodes[33])
    limit(w, root, pinned_pages=600)
    account.pin(inodes[0])

    assert used(w).used_pinned_pages == 34 * 15


def test_a_pinned_file_grows_within_what_may_be_pinned(w: World, root: int) -> None:
    limit(w, root, pinned_pages=2)
    result = w("open", tokens=[1])
    w.kernel.account.pin(w.kernel.files.inodes[result.ino])

    with pytest.raises(errors.QuotaExceeded):
        w("forward", fd=result.fd, tokens=[1] * 8)
    with pytest.raises(errors.QuotaExceeded):
        w("append", fd=result.fd, tokens=[1] * 8)
    w.start("forward", fd=result.fd, tokens=[1] * 7)
    w.step()


def test_limits_are_told_to_the_device_and_to_who_keeps_them(w: World, root: int) -> None:
    kept: list[QuotaRecord] = []
    w.kernel.account.on_change.append(kept.append)

    limit(w, root, host_bytes=100, files=5)
    limit(w, root, files=6)
    limit(w, root, host_bytes=-1, rows=3)

    assert w.sent(LimitDomain) == [LimitDomain("me", 100, None, None), LimitDomain("me", None, None, 3)]
    assert kept[-1] == QuotaRecord("me", files=6, rows=3)
    assert w.kernel.account.records() == (kept[-1],)


def test_quotas_are_set_by_the_admin_and_seen_by_their_principal(w: World, root: int) -> None:
    with pytest.raises(errors.NotOwner):
        w("setquota", principal="me", files=1000)
    with pytest.raises(errors.NotOwner):
        w("getquota", principal="other")
    with pytest.raises(errors.InvalidArgument):
        limit(w, root, "", files=1)


def test_statfs_shows_the_room_and_ones_own_part(w: World, root: int) -> None:
    w.kernel.capacity = lambda: Capacity(1000, 900, 64, 32, 128, 16, 112, rows=(("me", 7), ("other", 9)))
    limit(w, root, rows=20)
    w.file([1])

    fs = w("statfs").fs

    assert (fs.device_pages, fs.device_pages_free, fs.disk_bytes_free) == (1000, 900, 112)
    assert (fs.quota.principal, fs.quota.rows, fs.quota.used_rows, fs.quota.used_files) == ("me", 20, 7, 1)


def test_du_shows_directories_after_what_is_in_them_and_each_file_once(w: World, root: int) -> None:
    other = w.kernel.connect(OTHER, "client", 0)
    for path in ("/kb", "/kb/a", "/kb/z"):
        w("mkdir", path=path)
    fd = computed(w, 8)
    for path in ("/kb/a/one", "/kb/b", "/kb/z/again"):
        w("link", fd=fd, path=path)
    w("link", fd=w("fork", fd=fd).fd, path="/kb/c")
    w("chmod", path="/kb/z", mode=0o700)

    result = w("du", path="/kb")

    shown = [(file.path, file.length, file.charge) for file in result.files]
    assert shown == [
        ("/kb/a/one", 8, 1), ("/kb/a", 8, 1), ("/kb/c", 8, 1), ("/kb/z", 0, 0), ("/kb", 16, 2),
    ]  # fmt: skip
    assert (result.num_pages, result.num_tokens) == (2, 16)
    assert [file.path for file in w("du", by=other, path="/kb").files] == ["/kb/a", "/kb"]
    assert w("du", path="/kb/b").num_pages == w("du", fd=fd).num_pages == 1
    with pytest.raises(errors.AccessDenied):
        w("du", by=other, path="/kb/b")


LIMITS = {"me": 9, "other": 7}


class Quotas(RuleBasedStateMachine):
    """Two principals with small quotas; the model counts pages as objects (a file has a list of them)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = resident(World())
        root = self.w.kernel.connect(ADMIN, "client", 0)
        self.pids = {"me": self.w.pid, "other": self.w.kernel.connect(OTHER, "client", 0)}
        for principal, pages in LIMITS.items():
            limit(self.w, root, principal, device_pages=pages)
        self.files: dict[tuple[str, int], tuple[int, list[object]]] = {}  # (owner, fd) -> length, pages
        self.names: dict[tuple[str, int], str] = {}

    def choose(self, n: int) -> tuple[str, int]:
        return sorted(self.files)[n % len(self.files)]

    def charge(self, owner: str) -> float:
        pages = [id(page) for _, held in self.files.values() for page in held]
        return sum(1 / pages.count(id(page)) for (who, _), (_, held) in self.files.items() for page in held if who == owner)

    @rule(owner=st.sampled_from(["me", "other"]))
    def create(self, owner: str) -> None:
        if len(self.files) < 6:
            fd = self.w.file([], by=self.pids[owner])
            path = f"/{owner}{fd}"
            self.w("link", by=self.pids[owner], fd=fd, path=path)
            self.w("chmod", by=self.pids[owner], path=path, mode=0o644)
            self.names[owner, fd] = path
            self.files[owner, fd] = (0, [])

    @precondition(lambda self: self.files)
    @rule(n=st.integers(0, 99), num_tokens=st.integers(1, 14))
    def forward(self, n: int, num_tokens: int) -> None:
        owner, fd = self.choose(n)
        length, pages = self.files[owner, fd]
        if length + num_tokens > MODEL.max_positions:
            return
        new = list(pages)
        if length % PAGE and sum(pages[-1] in held for _, held in self.files.values()) > 1:
            new[-1] = object()
        new += [object() for _ in range(-(-(length + num_tokens) // PAGE) - len(new))]
        before = self.charge(owner)
        self.files[owner, fd] = (length + num_tokens, new)
        fits = self.charge(owner) <= max(LIMITS[owner], before) + 1e-9  # it may have too many: others left pages to it
        try:
            self.w.start("forward", by=self.pids[owner], fd=fd, tokens=[1] * num_tokens)
            if self.w.jobs:
                self.w.step()
                outcome = ""
            else:
                self.w.result(self.w.num_calls, self.pids[owner])
        except SymphonyError as error:
            outcome = error.reason
        assert outcome == ("" if fits else "EDQUOT")
        if not fits:
            self.files[owner, fd] = (length, pages)

    @precondition(lambda self: self.files)
    @rule(n=st.integers(0, 99), by=st.sampled_from(["me", "other"]))
    def fork(self, n: int, by: str) -> None:
        if len(self.files) >= 6:
            return
        owner, fd = self.choose(n)
        if (owner, fd) not in self.names:
            return
        seen = self.w("open", by=self.pids[by], path=self.names[owner, fd]).fd
        copy = self.w("fork", by=self.pids[by], fd=seen).fd
        self.w("close", by=self.pids[by], fd=seen)
        length, pages = self.files[owner, fd]
        self.files[by, copy] = (length, list(pages))

    @precondition(lambda self: self.files)
    @rule(n=st.integers(0, 99), at=st.integers(0, 99))
    def truncate(self, n: int, at: int) -> None:
        owner, fd = self.choose(n)
        length, pages = self.files[owner, fd]
        length = at % (length + 1)
        self.w("truncate", by=self.pids[owner], fd=fd, length=length)
        self.files[owner, fd] = (length, pages[: -(-length // PAGE)])

    @precondition(lambda self: self.files)
    @rule(n=st.integers(0, 99))
    def drop(self, n: int) -> None:
        owner, fd = self.choose(n)
        if (owner, fd) in self.names:
            self.w("unlink", by=self.pids[owner], path=self.names.pop((owner, fd)))
        self.w("close", by=self.pids[owner], fd=fd)
        del self.files[owner, fd]

    @invariant()
    def each_is_charged_its_part(self) -> None:
        self.w.check()
        for principal, pid in self.pids.items():
            assert used(self.w, by=pid).used_device_pages == pytest.approx(self.charge(principal))


Quotas.TestCase.settings = settings(max_examples=count(50, 2000), stateful_step_count=30, deadline=None)
TestQuotas = Quotas.TestCase
