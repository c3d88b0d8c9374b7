import pytest

from tests.unit.kernel.world import ROW, World
from vllm_symphony import errors
from vllm_symphony.abi.types import Grammar, OpenFlags, Predicate, Sampler, pack_tokens, unpack_tokens
from vllm_symphony.kernel.effect import GenerateDone, GenerateJob, JobFailed

JSON = Grammar("json", '{"type": "object"}')
INF, NAN = float("inf"), float("nan")


def run(w: World, fd: int, *tokens: int, reason: str = "length", **args: object) -> GenerateJob:
    """A whole generate that gives `tokens`; the job that the device saw."""
    w.start("generate", fd=fd, **args)
    job: GenerateJob = w.job()
    if tokens:
        w.deliver(list(tokens))
    w.step(reason=reason)
    return job


def test_generate_leaves_its_tokens_in_the_file(w: World) -> None:
    fd = w.file([1, 2])
    call = w.start("generate", fd=fd, max_tokens=2, logprobs=True)

    w.deliver([5], logprobs=[-0.5], text="five")
    assert w.tokens(fd) == [1, 2, 5]
    w.deliver([6], logprobs=[-1.0], text=" six")
    w.step()

    result = w.result(call)
    assert (result.length, result.reason, result.text, unpack_tokens(result.tokens)) == (4, "length", "five six", [5, 6])
    assert len(result.logprobs) == 8
    assert w.stream(call) == []
    assert w("stat", fd=fd).file.frontier == 3


def test_generate_asks_for_text_only_when_wanted(w: World) -> None:
    assert run(w, w.file([1]), 5).text
    assert not run(w, w.file([1]), 5, text=False).text


def test_generate_streams_its_parts(w: World) -> None:
    fd = w.file([1, 2])
    call = w.start("generate", fd=fd, stream=True)

    w.deliver([5], text="five")
    w.deliver([6, 7])
    w.step(reason="stop", stop="x")

    assert [(unpack_tokens(p.tokens), p.text) for p in w.stream(call)] == [([5], "five"), ([6, 7], "")]
    assert (w.result(call).reason, w.result(call).stop) == ("stop", "x")


def test_generate_hands_back_the_distribution_that_fired(w: World) -> None:
    fd = w.file([1, 2])
    call = w.start("generate", fd=fd, until=Predicate("and", parts=(Predicate("entropy", 1.0), Predicate("after", 3))))

    job = w.jobs.pop(w.job().job)
    w.complete(GenerateDone(job.job, "until", None, 2, ROW))

    assert (w.result(call).distribution, w.result(call).tokens) == (ROW, b"")


def test_max_tokens_is_cut_to_the_position_limit(w: World) -> None:
    fd = w.file(range(60))
    assert run(w, fd, 1, 2, 3, 4, max_tokens=1000).max_tokens == 4

    with pytest.raises(errors.ContextTooLong):
        w("generate", fd=fd)


@pytest.mark.parametrize("how", ["cancel", "time", "fail", "close"])
def test_generate_keeps_what_was_delivered(w: World, how: str) -> None:
    fd = w.file([1, 2])
    w("link", fd=fd, path="/a")
    call = w.start("generate", fd=fd, timeout_s=1.0)
    w.deliver([5, 6])

    if how == "cancel":
        w("cancel", target=call)
    elif how == "time":
        w.pass_time(1)
    elif how == "close":
        w("close", fd=fd)
    w.reap() if how != "fail" else w.fail(errors.OutOfPages("no page", retry_after_s=2.0, pages=3))

    with pytest.raises({"time": errors.TimedOut, "fail": errors.OutOfPages}.get(how, errors.Interrupted)) as caught:
        w.result(call)
    assert caught.value.values["length"] == 4
    if how == "fail":
        assert (caught.value.values["pages"], caught.value.retry_after_s) == (3, 2.0)
    assert w("stat", path="/a").file.length == 4


def test_fork_of_a_generating_file_gets_what_was_delivered(w: World) -> None:
    fd = w.file([1, 2])
    w.start("generate", fd=fd)
    w.deliver([5])

    copy = w("fork", fd=fd)
    w.deliver([6])
    w.step()

    assert (w.tokens(copy.fd), w.tokens(fd)) == ([1, 2, 5], [1, 2, 5, 6])


def test_penalties_count_from_where_sampling_began(w: World) -> None:
    fd = w.file([1, 2])
    assert run(w, fd, 5).penalty_from == 2
    w("append", fd=fd, tokens=[8, 9])

    assert run(w, fd, 6).penalty_from == 2
    copy = w("fork", fd=fd).fd
    assert run(w, copy, 6).penalty_from == 2
    assert run(w, fd, 6, sampler=Sampler(penalty_from=4)).penalty_from == 4
    w("truncate", fd=fd, length=1)
    assert run(w, fd, 6).penalty_from == 1


def test_a_generate_that_drew_nothing_leaves_no_trace(w: World) -> None:
    fd = w.file([1, 2])
    run(w, fd, reason="until", grammar=JSON, until=Predicate("entropy", 0.0))
    w("append", fd=fd, tokens=[3])

    job = run(w, fd, 5, grammar=JSON)

    assert (job.penalty_from, job.grammar and job.grammar.start) == (3, 3)


@pytest.mark.parametrize(
    ("reason", "last", "start"),
    [("length", 5, 2), ("until", 5, 2), ("stop", 5, 2), ("stop", 2, 4), ("grammar", 5, 4)],
)
def test_an_unfinished_grammar_goes_on(w: World, reason: str, last: int, start: int) -> None:
    fd = w.file([1, 2])
    run(w, fd, 7, last, grammar=JSON, reason=reason)

    job = run(w, fd, 7, grammar=JSON)

    assert job.grammar is not None
    assert job.grammar.start == start


def test_grammars_are_kept_apart_forked_and_rolled_back(w: World) -> None:
    fd = w.file([1, 2])
    run(w, fd, 5, grammar=JSON)
    other = Grammar("regex", "a+")

    assert run(w, fd, 6, grammar=other).grammar == Grammar("regex", "a+", 3)
    copy = w("fork", fd=fd).fd
    w("truncate", fd=fd, length=2)
    assert run(w, fd, 6, grammar=other).grammar == Grammar("regex", "a+", 2)
    assert run(w, copy, 6, grammar=JSON).grammar == Grammar("json", JSON.text, 2)
    assert run(w, copy, 6, grammar=Grammar("json", JSON.text, 1)).grammar == Grammar("json", JSON.text, 1)


@pytest.mark.parametrize(
    "args",
    [
        {"max_tokens": 0},
        {"timeout_s": -1.0},
        {"stop": ("",)},
        {"stop": ("a",) * 65},
        {"stop_tokens": [100]},
        {"sampler": Sampler(temperature=-0.1)},
        {"sampler": Sampler(temperature=NAN)},
        {"sampler": Sampler(temperature=INF)},
        {"sampler": Sampler(top_k=-1)},
        {"sampler": Sampler(top_p=0.0)},
        {"sampler": Sampler(top_p=1.1)},
        {"sampler": Sampler(min_p=-0.1)},
        {"sampler": Sampler(min_p=1.5)},
        {"sampler": Sampler(presence_penalty=2.1)},
        {"sampler": Sampler(frequency_penalty=NAN)},
        {"sampler": Sampler(repetition_penalty=0.0)},
        {"sampler": Sampler(repetition_penalty=INF)},
        {"sampler": Sampler(penalty_from=3)},
        {"sampler": Sampler(penalty_from=-1)},
        {"sampler": Sampler(logit_bias={100: 1.0})},
        {"sampler": Sampler(logit_bias={1: INF})},
        {"sampler": Sampler(allowed=b"")},
        {"sampler": Sampler(allowed=pack_tokens([100]))},
        {"grammar": Grammar("yaml", "a")},
        {"grammar": Grammar("json", "{")},
        {"grammar": Grammar("json", "")},
        {"grammar": Grammar("json", "[" * 60000)},
        {"grammar": Grammar("regex", "a" * 65537)},
        {"grammar": Grammar("choice", "[]")},
        {"grammar": Grammar("choice", '["a", 1]')},
        {"grammar": Grammar("regex", "a", start=3)},
        {"until": Predicate("wish")},
        {"until": Predicate("and")},
        {"until": Predicate("entropy", NAN)},
        {"until": Predicate("entropy", parts=(Predicate("entropy"),))},
        {"until": Predicate("after", -1)},
        {"until": Predicate("every", 0)},
        {"until": Predicate("mass", 0.5)},
        {"until": Predicate("top1_in", tokens=pack_tokens([100]))},
        {"until": Predicate("or", parts=(Predicate("entropy"),) * 64)},
    ],
)
def test_generate_refuses_and_changes_nothing(w: World, args: dict) -> None:
    fd = w.file([1, 2])

    with pytest.raises(errors.InvalidArgument):
        w("generate", fd=fd, **args)

    assert w.sent(GenerateJob) == []
    assert not w("stat", fd=fd).file.busy


def test_a_predicate_may_be_eight_deep_and_no_deeper(w: World) -> None:
    fd = w.file([1, 2])
    tree = Predicate("entropy", 1.0)
    for _ in range(7):
        tree = Predicate("and", parts=(tree,))
    run(w, fd, 5, until=tree)

    with pytest.raises(errors.InvalidArgument):
        w("generate", fd=fd, until=Predicate("or", parts=(tree,)))


def test_generate_on_an_empty_file_or_the_wrong_length_is_refused(w: World) -> None:
    with pytest.raises(errors.InvalidArgument):
        w("generate", fd=w("open", flags=OpenFlags.TMPFILE).fd)
    with pytest.raises(errors.StaleFile):
        w("generate", fd=w.file([1]), at=2)


def test_a_grammar_that_the_device_cannot_compile_is_einval(w: World) -> None:
    call = w.start("generate", fd=w.file([1]), grammar=Grammar("regex", "("))

    job = w.jobs.pop(w.job().job)
    w.complete(JobFailed(job.job, errors.InvalidArgument("unbalanced parenthesis")))

    with pytest.raises(errors.InvalidArgument):
        w.result(call)
