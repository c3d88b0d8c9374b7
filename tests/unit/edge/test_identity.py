"""Who a caller is, for each door and each header; and that open calls end when their token does."""

import asyncio
from contextlib import suppress

import pytest

from vllm_symphony.edge.credentials import CALLER, OWN, caller
from vllm_symphony.edge.identity import Identity
from vllm_symphony.edge.own_token import OwnToken
from vllm_symphony.edge.token import make
from vllm_symphony.edge.token_file import TokenFile
from vllm_symphony.errors import NotOwner, Unauthenticated, WouldBlock

UNIX, TCP = "unix:", "ipv4:127.0.0.1:40000"
PING, RUN, SPAWN = "/symphony.v1.SystemService/Ping", "/symphony.v1.ProcessService/Run", "/symphony.v1.ProcessService/Spawn"


class Context:
    """What gRPC tells of a call."""

    def __init__(self, peer: str, *metadata: tuple[str, str | bytes], certificate: tuple[bytes, ...] = ()) -> None:
        self._peer, self._metadata, self._certificate = peer, (("user-agent", "test"), *metadata), certificate

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._metadata

    def auth_context(self) -> dict[str, tuple[bytes, ...]]:
        return {"x509_common_name": self._certificate} if self._certificate else {}


class World:
    """A token file, a clock, and the identity that reads them."""

    def __init__(self, path, **settings: object) -> None:
        self.now_s = 1000.0
        self.file = TokenFile(path / "state")
        self.own = OwnToken(path / "token")
        self.identity = Identity(TokenFile(path / "state"), self.own, clock=lambda: self.now_s, **settings)
        self.identity.confined("B", "user: not root")

    def token(self, name: str = "ci", principal: str = "alice", **kwargs: object) -> tuple[str, str]:
        """A header with a new token."""
        token, text = make(name, principal, now_s=0.0, **kwargs)
        self.file.add(token)
        return "authorization", f"Bearer {text}"

    def who(self, context: Context, method: str = PING):
        async def rpc():
            async with self.identity.known(method, context):
                return caller(context)

        return asyncio.run(rpc())

    def refused(self, context: Context, error: type[Exception] = Unauthenticated, method: str = PING) -> str:
        with pytest.raises(error) as refused:
            self.who(context, method)
        return refused.value.message


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


def test_the_unix_socket_is_the_servers_user(world):
    assert world.who(Context(UNIX)) == OWN


def test_a_token_is_its_principal_at_any_door(world):
    header = world.token(groups=("g",), scopes=("admin",))

    for peer in (UNIX, TCP, "ipv6:[::1]:5"):
        who = world.who(Context(peer, header))
        assert (who.principal, who.groups, who.is_admin) == ("alice", ("g",), True)


def test_an_added_token_counts_from_the_next_call_and_a_revoked_one_no_more(world):
    world.refused(Context(TCP))
    header = world.token()
    assert world.who(Context(TCP, header)).principal == "alice"

    world.file.revoke("ci")

    assert "unknown or revoked" in world.refused(Context(TCP, header))
    assert world.token() != header
    assert "unknown or revoked" in world.refused(Context(TCP, header))  # the name is taken again, by another token


def test_an_expired_token_is_refused_by_name(world):
    header = world.token(expires_s=1010.0)
    assert world.who(Context(TCP, header)).principal == "alice"

    world.now_s = 1010.0

    assert "the token ci has expired" in world.refused(Context(TCP, header))


def test_no_token_on_tcp_says_what_to_do(world):
    message = world.refused(Context(TCP))

    assert "authorization: Bearer sym_..." in message and "symphony token add" in message


@pytest.mark.parametrize("peer", [UNIX, TCP])
@pytest.mark.parametrize(
    "wrong",
    [
        lambda t: (("authorization", t),),
        lambda t: (("authorization", f"Basic {t}"),),
        lambda t: (("authorization", f"Bearer  {t}"),),
        lambda t: (("authorization", f"Bearer {t[:-1]}"),),
        lambda t: (("authorization", f"Bearer {t[:30]}"),),
        lambda t: (("authorization", f"Bearer {t}0"),),
        lambda t: (("authorization", f"Bearer {t[:-1]}{'0' if t[-1] != '0' else '1'}"),),
        lambda t: (("authorization", f"Bearer sym_000000000000_{t[17:]}"),),
        lambda t: (("authorization", ""),),
        lambda t: (("authorization", "Bearer"),),
        lambda t: (("authorization", f"Bearer {t}"), ("authorization", f"Bearer {t}")),
        lambda t: (("token", t),),
        lambda t: (("x-api-key", t),),
        lambda t: (("x-other", f"https://{t}@host"),),
        lambda t: (("authorization", f"Bearer {t}"), ("x-api-key", t)),
    ],
)
def test_a_header_that_is_wrong_in_any_way_is_refused_and_not_repeated(world, peer, wrong):
    token = world.token()[1].removeprefix("Bearer ")

    message = world.refused(Context(peer, *wrong(token)))

    assert message
    assert token[4:16] not in message and token[17:25] not in message and token[-8:] not in message


def test_other_headers_and_binary_ones_do_not_matter(world):
    assert world.who(Context(UNIX, ("x-trace", "sym_links"), ("x-trace-bin", b"\xff"))) == OWN


def test_a_client_certificate_is_a_principal_without_scopes(world):
    who = world.who(Context(TCP, certificate=(b"bob@example.org",)))

    assert (who.principal, who.groups, who.scopes) == ("bob@example.org", (), ())


def test_a_token_goes_before_a_client_certificate(world):
    assert world.who(Context(TCP, world.token(), certificate=(b"bob",))).principal == "alice"


@pytest.mark.parametrize("names", [(b"a b",), (b"../x",), (b"\xff",), (b"",), (b"a", b"b")])
def test_a_certificate_that_names_nobody_is_refused(world, names):
    world.refused(Context(TCP, certificate=names))


def test_the_own_token_is_the_servers_user(world):
    world.own.publish([])
    text = (world.file.path.parent.parent / "token").read_text().strip()

    assert world.who(Context(TCP, ("authorization", f"Bearer {text}"))) == OWN


def test_a_damaged_token_file_refuses_its_tokens_and_no_others(world):
    header = world.token()
    world.own.publish([])
    text = (world.file.path.parent.parent / "token").read_text().strip()
    world.file.path.write_text("{")

    assert "its token file is unusable" in world.refused(Context(TCP, header))
    assert world.who(Context(UNIX)) == OWN
    assert world.who(Context(TCP, ("authorization", f"Bearer {text}"))) == OWN


def test_without_a_token_file_no_token_opens_anything(world):
    header = world.token()

    world.identity = Identity()
    world.identity.confined("B")

    assert "unknown" in world.refused(Context(UNIX, header))
    assert world.who(Context(UNIX)) == OWN


@pytest.mark.parametrize("method", [RUN, SPAWN])
def test_starting_programs_needs_scope_run(tmp_path, method):
    world = World(tmp_path, unconfined=True)
    without, with_run, admin = (world.token(n, scopes=s) for n, s in (("a", ()), ("b", ("run",)), ("c", ("admin",))))

    message = world.refused(Context(TCP, without), NotOwner, method)

    assert message.startswith("alice may not start programs: scope run is needed")
    assert world.who(Context(TCP, without)).scopes == ()
    assert world.who(Context(TCP, with_run), method).scopes == ("run",)
    assert world.who(Context(TCP, admin), method).scopes == ("admin", "run")


@pytest.mark.parametrize("scopes", [("run",), ("admin",), ("run", "admin")])
def test_where_programs_have_no_users_of_their_own_only_the_servers_user_starts_them(world, scopes):
    header = world.token(scopes=scopes)

    message = world.refused(Context(UNIX, header), NotOwner, RUN)

    assert "level B here, so scope run works for the server's own user only" in message
    assert "symphony serve --unconfined` (user: not root)" in message
    assert "run" not in world.who(Context(UNIX, header)).scopes
    assert world.who(Context(UNIX), RUN) == OWN
    mine = world.token("mine", OWN.principal, scopes=("run",))
    assert world.who(Context(TCP, mine), RUN).scopes == ("run",)


def test_at_level_a_whoever_has_the_scope_starts_programs(world):
    world.identity.confined("A")

    assert world.who(Context(TCP, world.token(scopes=("run",))), RUN).scopes == ("run",)


@pytest.mark.parametrize("unconfined", [False, True])
def test_where_nothing_confines_programs_nobody_starts_them_unless_it_was_asked_for(tmp_path, unconfined):
    world = World(tmp_path, unconfined=unconfined)
    world.identity.confined("C", "seccomp: none")

    if unconfined:
        assert world.who(Context(UNIX), RUN) == OWN
    else:
        assert "works for nobody" in world.refused(Context(UNIX), NotOwner, RUN)
        assert world.who(Context(UNIX)).scopes == ("admin",)


def test_before_the_server_knows_how_it_confines_programs_nobody_starts_them(tmp_path):
    world = World(tmp_path)
    world.identity = Identity()

    assert "is starting" in world.refused(Context(UNIX), WouldBlock, SPAWN)


def test_an_rpc_that_nobody_authenticated_has_no_caller():
    assert CALLER.get() is None
    with pytest.raises(Unauthenticated):
        caller(Context(UNIX))


def open_call(world: World, context: Context, change, *, method: str = PING) -> str:
    """Make `change` while a call is open; the message that it ends with, or `open` when it does not."""

    async def rpc(opened: asyncio.Event):
        async with world.identity.known(method, context):
            opened.set()
            await asyncio.Event().wait()

    async def main() -> str:
        opened = asyncio.Event()
        task = asyncio.create_task(rpc(opened))
        await opened.wait()
        world.identity.cut()
        await asyncio.sleep(0)
        assert not task.done()
        change()
        world.identity.cut()
        world.identity.cut()  # a second look while it ends does no harm
        for _ in range(5):
            await asyncio.sleep(0)
        if task.done():
            return task.exception().message
        world.identity.cut()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        return "open"

    message = asyncio.run(main())
    assert world.identity._open == {}
    return message


def test_an_open_call_ends_when_its_token_is_revoked(world):
    message = open_call(world, Context(TCP, world.token()), lambda: world.file.revoke("ci"))

    assert message == "the token ci was revoked: the call ends"


def test_an_open_call_ends_when_its_token_expires(world):
    def pass_time() -> None:
        world.now_s = 1010.0

    assert "has expired" in open_call(world, Context(TCP, world.token(expires_s=1010.0)), pass_time)


def test_an_open_call_ends_when_the_token_file_cannot_be_trusted_any_more(world):
    message = open_call(world, Context(TCP, world.token()), lambda: world.file.path.chmod(0o644))

    assert message == "the token ci cannot be checked any more (the server's log says why): the call ends"


def test_open_calls_of_others_go_on(world):
    header = world.token("mine")
    world.token("other")

    assert open_call(world, Context(TCP, header), lambda: world.file.revoke("other")) == "open"
    assert open_call(world, Context(UNIX), lambda: world.file.revoke("mine")) == "open"


def test_a_time_limit_inside_a_call_stays_its_own(world):
    async def rpc():
        async with world.identity.known(PING, Context(UNIX, world.token())):
            raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        asyncio.run(rpc())
    assert world.identity._open == {}
