"""What the engine tests compare with: plain vLLM in the same engine, and transformers on the same weights."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.engine.driver import TIMEOUT_S, Driver, ids, logprobs
from vllm_symphony.abi.types import Distribution

CLOSE = 1e-4  # the reference rule, in float32

_SERIAL = itertools.count(1)
_TEXTS = (
    "Tell me a story about a fox and a lantern.", "List four things that are red.", "What is the capital of France?",
    "Write about a small boat on a wide lake in winter.", "Is this review good or bad? The soup was cold and the waiter left.",
    "What does a baker do before the sun is up?", "Name an animal that can swim and say why.", "Add 12 and 7 and tell me the sum.",
)  # fmt: skip


@dataclass
class Plain:
    """What a plain request gave: its tokens, and for each the top k of its row, best first."""

    tokens: list[int] = field(default_factory=list)
    tops: list[list[tuple[int, float]]] = field(default_factory=list)


def prompts(driver: Driver, n: int) -> list[list[int]]:
    """`n` different chat prompts of 10 to 60 tokens."""
    out = []
    for i in range(n):
        text = " ".join(_TEXTS[(i * 3 + j) % len(_TEXTS)] for j in range(1 + i % 3))
        out.append(driver.host.tokenizer.encode(f"<|im_start|>user\n{text} ({i})<|im_end|>\n<|im_start|>assistant\n"))
    return out


def long_prompt(driver: Driver, num_tokens: int, salt: int = 0) -> list[int]:
    """Running text of exactly that many tokens."""
    text = " ".join(f"({salt + i}) {_TEXTS[(salt + i) % len(_TEXTS)]}" for i in range(1 + num_tokens // 4))
    return driver.host.tokenizer.encode(text)[:num_tokens]


def start_plain(
    driver: Driver, prompt: Sequence[int], n: int, k: int | None = 5, *, priority: int = 0, wait: bool = True, **params: Any
) -> queue.Queue[Any]:
    """Begin a plain vLLM request beside the files. `wait`: until the engine has it."""
    from vllm import SamplingParams
    from vllm.v1.request import Request

    q: queue.Queue[Any] = queue.Queue()
    sampling = SamplingParams(**{"max_tokens": n, "temperature": 0.0, "ignore_eos": True, "logprobs": k, **params})
    hasher = driver.host.core.request_block_hasher
    request = Request(f"plain-{next(_SERIAL)}", list(prompt), sampling, None, block_hasher=hasher, priority=priority)
    if request.use_structured_output:
        driver.call(lambda: driver.host.core.structured_output_manager.grammar_init(request))
    driver.host.add_plain(request, q.put, wait=wait)
    return q


def finish_plain(q: queue.Queue[Any]) -> Plain:
    out = Plain()
    while True:
        o = q.get(timeout=TIMEOUT_S)
        out.tokens += o.new_token_ids
        if o.new_logprobs is not None:
            for ids_row, lp_row in zip(o.new_logprobs.logprob_token_ids, o.new_logprobs.logprobs, strict=True):
                out.tops.append(list(zip(ids_row[1:].tolist(), lp_row[1:].tolist(), strict=True)))  # [0] is the sampled token
        if o.finish_reason is not None:
            return out


def plain(driver: Driver, prompt: Sequence[int], n: int, k: int | None = 5, **params: Any) -> Plain:
    return finish_plain(start_plain(driver, prompt, n, k, **params))


def assert_close(d: Distribution, top: Sequence[tuple[int, float]]) -> None:
    """The distribution's best are the reference's, within CLOSE; ids may change places only where they tie."""
    mine = dict(zip(ids(d), logprobs(d), strict=True))
    values = sorted(mine.values(), reverse=True)
    for rank, (token, logprob) in enumerate(top):
        assert abs(values[rank] - logprob) < CLOSE, (d.position, rank, values[rank], logprob)
        if token in mine:
            assert abs(mine[token] - logprob) < CLOSE, (d.position, token, mine[token], logprob)
        else:
            assert rank >= 1 and abs(logprob - values[-1]) < CLOSE, f"position {d.position}: token {token} is not among the best"


def same(a: Distribution, b: Distribution) -> None:
    """Two distributions of the same tokens agree within CLOSE."""
    assert a.position == b.position
    assert_close(a, list(zip(ids(b), logprobs(b), strict=True)))
    assert abs(a.logsumexp - b.logsumexp) < CLOSE


def best(d: Distribution) -> int:
    return ids(d)[0]


class Ties:
    """Counts where a greedy choice differs from the reference's; only ties may."""

    def __init__(self) -> None:
        self.num_tokens = self.num_ties = 0
        self.lock = threading.Lock()

    def choose(self, d: Distribution, reference: int, top: Sequence[tuple[int, float]]) -> int:
        """The reference's token, after proving that ours is the same or ties with it on both sides."""
        with self.lock:
            self.num_tokens += 1
            if best(d) != reference:
                self.num_ties += 1
                mine, theirs = dict(zip(ids(d), logprobs(d), strict=True)), dict(top)
                assert abs(mine[best(d)] - mine[reference]) < CLOSE and abs(theirs[best(d)] - theirs[reference]) < CLOSE
        return reference

    def report(self) -> None:
        print(f"{self.num_ties} ties in {self.num_tokens} tokens")
        assert self.num_ties <= 0.001 * self.num_tokens


def decode(dev: Driver, prompt: list[int], reference: Plain, ties: Ties, k: int) -> None:
    """A program of its own: forward one token, choose, forward the next; each distribution is the reference's."""
    f = dev.create()
    tokens = prompt
    for token, top in zip(reference.tokens, reference.tops, strict=True):
        (d,) = dev.forward(f, tokens, top_k=k)
        assert_close(d, top)
        tokens = [ties.choose(d, token, top)]
    dev.drop(f)


def together(*fns: Callable[[], Any]) -> list[Any]:
    """Run each in a thread of its own; their results in order, or the first error."""
    results: list[Any] = [None] * len(fns)
    errors: list[BaseException] = []

    def run(i: int) -> None:
        try:
            results[i] = fns[i]()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(fns))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]
    return results


def transformers_rows(path: Any, tokens: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
    """Logits [num_tokens, vocab] of the same weights in float32 with explicit positions."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    mask = torch.full((len(tokens), len(tokens)), torch.finfo(torch.float32).min).triu(1)
    with torch.inference_mode():
        out = model(torch.tensor([tokens]), position_ids=torch.tensor([positions]), attention_mask=mask[None, None])
    return out.logits[0]
