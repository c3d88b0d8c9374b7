# ruff: noqa: PT017  programs know nothing of pytest
"""generate: what it gives is what forward and sample give one by one."""

import json

from vllm_symphony import lip

QUESTION = "What is the boat for?"


async def chat():
    return await lip.open(tokens=lip.render_chat(QUESTION))


async def generate_is_a_loop_of_forwards():
    async with await chat() as f, f.fork() as g:
        start = f.length
        done = await f.generate(24, ignore_eos=True, logprobs=True)
        assert (done.reason, done.length, f.length) == ("length", start + 24, start + 24)
        assert await f.read(start) == done.tokens
        dist, tokens = await g.forward(), []
        for logprob in done.logprobs:
            tokens.append(dist.top1)
            assert abs(dist.logprobs[0] - logprob) < 1e-3
            dist = await g.forward(dist.top1)
        assert tokens == done.tokens


async def one_call_or_many_is_the_same():
    for sampler in ({}, {"frequency_penalty": 0.7}, {"presence_penalty": 1.1}, {"repetition_penalty": 1.3}):
        async with await chat() as a, a.fork() as b:
            whole = await a.generate(20, ignore_eos=True, **sampler)
            parts = []
            for n in (1, 1, 5, 13):
                parts += (await b.generate(n, ignore_eos=True, **sampler)).tokens
            assert parts == whole.tokens, sampler


async def a_seed_repeats_and_splits():
    async with await chat() as a, a.fork() as b, a.fork() as c:
        whole = await a.generate(20, temperature=1.0, seed=5, ignore_eos=True)
        first = await b.generate(7, temperature=1.0, seed=5, ignore_eos=True)
        assert first.tokens + (await b.generate(13, temperature=1.0, seed=5, ignore_eos=True)).tokens == whole.tokens
        assert (await c.generate(20, temperature=1.0, seed=6, ignore_eos=True)).tokens != whole.tokens


async def a_stream_is_the_whole_in_pieces():
    async with await chat() as a, a.fork() as b:
        whole = await a.generate(20, ignore_eos=True, logprobs=True)
        stream = b.generate(20, ignore_eos=True, logprobs=True)
        tokens, text, logprobs = [], "", []
        async for piece in stream:
            tokens += piece.tokens
            text += piece.text
            logprobs += piece.logprobs
        done = await stream
        assert tokens == done.tokens == whole.tokens and text == done.text == whole.text
        assert logprobs == done.logprobs and len(logprobs) == 20


async def a_stop_string_ends_with_the_token_that_completes_it():
    async with await chat() as a, a.fork() as b:
        start = a.length
        whole = await a.generate(30, ignore_eos=True)
        stop = whole.text[8:11]
        at = whole.text.index(stop)
        done = await b.generate(30, ignore_eos=True, stop=stop)
        assert (done.reason, done.stop) == ("stop", stop)
        assert done.tokens == whole.tokens[: len(done.tokens)]
        assert done.text == whole.text[:at]
        assert stop in await b.text(start) and stop not in await lip.detokenize(done.tokens[:-1])


async def stop_tokens_end_it_and_are_in_the_file():
    async with await chat() as a, a.fork() as b:
        whole = await a.generate(30, ignore_eos=True)
        token = whole.tokens[9]
        first = whole.tokens.index(token)
        done = await b.generate(30, ignore_eos=True, stop_tokens=[token])
        assert done.reason == "stop" and done.tokens == whole.tokens[: first + 1]
        assert (await b.read())[-1] == token


async def until_hands_back_without_choosing():
    async with await chat() as a, a.fork() as b:
        start = a.length
        whole = await a.generate(20, ignore_eos=True)
        done = await b.generate(20, ignore_eos=True, until=lip.after(6))
        assert done.reason == "until" and done.tokens == whole.tokens[:6] and b.length == start + 6
        assert done.distribution.position == start + 5 and done.distribution.top1 == whole.tokens[6]
        assert done.distribution.entropy > 0
        await b.append(done.distribution.top1)
        rest = await b.generate(13, ignore_eos=True)
        assert whole.tokens == [*done.tokens, done.distribution.top1, *rest.tokens]


async def until_conditions_say_what_they_measure():
    async with await chat() as a:
        dist = await a.forward(entropy=True)
        held = [
            lip.entropy > dist.entropy - 0.01,
            lip.top1 < dist.p + 0.01,
            lip.margin > dist.margin - 0.01,
            lip.best_in([dist.top1]),
            lip.mass(dist.ids[:2]) > dist.p,
            (lip.top1 > 1.5) | (lip.margin < 1.5),
        ]
        for condition in held:
            async with a.fork() as f:
                done = await f.generate(5, until=condition, ignore_eos=True)
                assert (done.reason, done.tokens) == ("until", []), condition
        for condition in [lip.entropy < 0, lip.top1 > 1.1, lip.best_in([dist.ids[5]]) & (lip.top1 > 1.1)]:
            async with a.fork() as f:
                assert (await f.generate(3, until=condition, ignore_eos=True)).reason == "length"
        async with a.fork() as f:
            lengths = []
            for _ in range(3):
                lengths.append(len((await f.generate(20, until=lip.every(4), ignore_eos=True)).tokens))
            assert lengths == [4, 4, 4]


async def a_choice_is_made():
    async with await chat() as f:
        done = await f.generate(20, grammar=lip.choice(["yes", "no", "perhaps"]))
        assert done.text in ("yes", "no", "perhaps") and done.reason == "grammar"


async def a_regex_is_kept_over_calls():
    grammar = lip.regex("[a-c]{6}-[0-9]{3}")
    async with await chat() as f, f.fork() as g:
        whole = await f.generate(30, grammar=grammar)
        assert whole.reason == "grammar"
        text = ""
        for _ in range(30):
            part = await g.generate(1, grammar=grammar)
            text += part.text
            if part.reason == "grammar":
                break
        assert text == whole.text
        assert len(text) == 10 and set(text[:6]) <= set("abc") and text[6] == "-" and text[7:].isdigit()


async def json_of_a_schema():
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["boat", "fog"]}, "sure": {"type": "boolean"}},
        "required": ["kind", "sure"],
        "additionalProperties": False,
    }
    async with await chat() as f:
        answer = json.loads((await f.generate(60, grammar=lip.json(schema))).text)
        assert answer["kind"] in ("boat", "fog") and isinstance(answer["sure"], bool)


async def a_grammar_binds_a_sample():
    async with await chat() as f:
        words = ["yes", "no"]
        firsts = {(await lip.tokenize(w[:1], special=False))[0] for w in words} | {
            (await lip.tokenize(w, special=False))[0] for w in words
        }
        for token in await f.sample(grammar=lip.choice(words), n=8, temperature=1.5, seed=1):
            assert token in firsts


async def a_generation_that_is_left_keeps_what_it_delivered():
    async with await chat() as f:
        start, seen = f.length, []
        stream = f.generate(500, ignore_eos=True)
        async for piece in stream:
            seen += piece.tokens
            if len(seen) >= 3:
                break
        stream.cancel()
        while (stat := await f.stat()).busy:
            await lip.sleep(0.001)
        assert 3 <= stat.length - start < 500
        assert (await f.read(start))[:3] == seen[:3]
        assert (await f.forward([44])).position == stat.length


async def a_generation_that_times_out_keeps_what_it_delivered():
    async with await chat() as f:
        start = f.length
        try:
            await f.generate(1500, ignore_eos=True, timeout_s=0.05)
        except lip.TimedOut as e:
            assert e.values["length"] == f.length == (await f.stat()).length
        else:
            raise AssertionError("it was in time")
        assert start <= f.length < start + 1500


async def many_at_once_are_each_alone():
    async with await chat() as root:
        alone = []
        for i in range(6):
            async with root.fork() as f:
                await f.append([50 + i])
                alone.append((await f.generate(12, ignore_eos=True)).tokens)
        async with lip.group() as g:
            threads = [g.start(one, root, 50 + i) for i in range(6)]
        assert [t.result for t in threads] == alone


async def one(root, token):
    async with root.fork() as f:
        await f.append([token])
        return (await f.generate(12, ignore_eos=True)).tokens
