import pytest

from tests.unit.kernel.world import World
from vllm_symphony import errors
from vllm_symphony.abi.types import Grammar, OpenFlags, Sampler, unpack_tokens
from vllm_symphony.kernel.effect import SampleJob

JSON = Grammar("json", "{}")


def draw(w: World, fd: int, token: int = 7, **args: object) -> SampleJob:
    """A whole sample; the job that the device saw."""
    w.start("sample", fd=fd, **args)
    job: SampleJob = w.job()
    w.step(tokens=(token,))
    return job


def test_sample_draws_after_the_last_token(w: World) -> None:
    fd = w.file([1, 2])
    call = w.start("sample", fd=fd, n=3)

    assert (w.job().position, w.job().n, w.job().penalty_from) == (1, 3, 2)
    w.step(tokens=(4, 5, 6))

    assert unpack_tokens(w.result(call).tokens) == [4, 5, 6]
    assert w.tokens(fd) == [1, 2]


def test_logits_gives_the_row_of_a_position(w: World) -> None:
    fd = w.file([1, 2])
    call = w.start("logits", fd=fd, position=0)

    w.step()

    assert w.result(call).position == 0


@pytest.mark.parametrize("op", ["sample", "logits"])
def test_a_position_outside_the_file_is_einval(w: World, op: str) -> None:
    fd = w.file([1, 2])

    for position in (-1, 2):
        with pytest.raises(errors.InvalidArgument):
            w(op, fd=fd, position=position)
    with pytest.raises(errors.InvalidArgument):
        w(op, fd=w("open", flags=OpenFlags.TMPFILE).fd)
    with pytest.raises(errors.BadFile):
        w(op, fd=99)
    with pytest.raises(errors.InvalidArgument):
        w(op, fd=fd, timeout_s=-1.0)


@pytest.mark.parametrize(
    "args",
    [{"n": 0}, {"n": 1025}, {"first_draw": -1}, {"sampler": Sampler(top_p=0.0)}, {"sampler": Sampler(penalty_from=3)}],
)
def test_sample_refuses_bad_arguments(w: World, args: dict) -> None:
    with pytest.raises(errors.InvalidArgument):
        w("sample", fd=w.file([1, 2]), **args)


def test_any_integer_is_a_seed(w: World) -> None:
    for seed in (-1, 0, 1 << 80):
        draw(w, w.file([1]), sampler=Sampler(seed=seed))


def test_sampling_token_by_token_counts_penalties_as_generate_does(w: World) -> None:
    fd = w.file([1, 2])
    assert draw(w, fd).penalty_from == 2
    w.start("forward", fd=fd, tokens=[7])
    w.step()

    assert draw(w, fd).penalty_from == 2
    assert draw(w, fd, position=0).penalty_from == 1
    w.start("generate", fd=fd)
    assert w.job().penalty_from == 2
    w.step()


def test_a_grammar_goes_on_over_samples_until_its_end_token(w: World) -> None:
    fd = w.file([1, 2])
    for token, start in ((7, 2), (2, 2), (7, 4)):
        assert draw(w, fd, token, grammar=JSON).grammar == Grammar("json", "{}", start)
        w("append", fd=fd, tokens=[token])


def test_sampling_a_shared_file_does_not_change_it(w: World) -> None:
    w("open", path="/a", tokens=[1, 2], flags=OpenFlags.CREAT)
    reader, writer = w("open", path="/a").fd, w("open", path="/a", flags=OpenFlags.RDWR).fd

    draw(w, reader, position=0)

    assert draw(w, writer).penalty_from == 2
    assert draw(w, w("fork", fd=reader).fd).penalty_from == 1
    assert draw(w, w("dup", fd=reader).fd).penalty_from == 1


def test_sampling_below_a_running_writer_is_allowed(w: World) -> None:
    fd = w.file([1, 2])
    w.start("forward", fd=fd, tokens=[3])

    call = w.start("sample", fd=fd, position=1)
    with pytest.raises(errors.InvalidArgument):
        w("sample", fd=fd, position=2)
    w.step()
    w.step()

    assert w.result(call)


def test_a_file_with_readers_is_not_cut(w: World) -> None:
    fd = w.file([1, 2])
    call = w.start("logits", fd=fd)

    with pytest.raises(errors.FileBusy):
        w("truncate", fd=fd, length=0)
    w("cancel", target=call)
    w.reap()

    with pytest.raises(errors.Interrupted):
        w.result(call)
    w("truncate", fd=fd, length=0)


@pytest.mark.parametrize("op", ["sample", "logits"])
def test_a_position_that_was_cut_off_is_estale(w: World, op: str) -> None:
    fd = w.file([1, 2, 3, 4])
    w("truncate", fd=fd, length=2)

    with pytest.raises(errors.StaleFile, match="cut to 2 tokens"):
        w(op, fd=fd, position=3)
    with pytest.raises(errors.InvalidArgument):
        w(op, fd=fd, position=4)


def test_a_row_that_is_gone_is_the_devices_estale(w: World) -> None:
    call = w.start("logits", fd=w.file([1, 2]), timeout_s=5.0)

    w.fail(errors.StaleFile("the row is gone"))

    with pytest.raises(errors.StaleFile):
        w.result(call)


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("tokenize", {"text": "a"}),
        ("detokenize", {"tokens": [1]}),
        ("render_chat", {"messages": "[]"}),
        ("parse_tools", {"text": "a"}),
    ],
)
def test_text_calls_wait_for_the_tokenizer(w: World, op: str, args: dict) -> None:
    call = w.start(op, **args)
    w.step()
    assert w.result(call)

    cancelled = w.start(op, **args)
    w("cancel", target=cancelled)
    with pytest.raises(errors.Interrupted):
        w.result(cancelled)
    w.step()

    failing = w.start(op, **args)
    w.fail(errors.InvalidArgument("no such template"))
    with pytest.raises(errors.InvalidArgument):
        w.result(failing)


def test_detokenize_checks_its_ids(w: World) -> None:
    with pytest.raises(errors.InvalidArgument):
        w("detokenize", tokens=[100])
