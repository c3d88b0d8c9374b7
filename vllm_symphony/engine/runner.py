"""Model-runner mixin: carries out the step plan beside vLLM's own work (engine/runner.py).

    execute_model   -> _prepare_inputs    positions of files with gaps are moved (slots are not)
                    -> model
    sample_tokens   -> distributions, kept rows and predicates from the UNMASKED logits, before vLLM masks and samples in place
                    -> vLLM's sampler, with generators and penalty histories set for the position
                    -> the answer rides on the ModelRunnerOutput

Mixed into whatever V1 runner class the platform chose (the CPU runner is its subclass), by `worker.py`. Row i of the logits is the
last token of request i, so it is refused with speculative decoding. Under asynchronous scheduling the answer is attached when
vLLM's own output has arrived; that path is proven on the CPU runner only.
Rejected: a logits processor (sees masked rows, last positions only), `prompt_logprobs` (rows for the whole file).
Source: vllm/v1/worker/gpu_model_runner.py `sample_tokens`, `_prepare_inputs`, ExecuteModelState (0.32).
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput

from vllm_symphony.abi.types import Sampler
from vllm_symphony.engine.distribution import PredicateRows, distributions
from vllm_symphony.engine.plan import RowPlan, StepPlan, StepResult
from vllm_symphony.engine.row_pool import RowPool
from vllm_symphony.engine.row_sampler import sample_row


class _WithResult(AsyncModelRunnerOutput):
    """Asynchronous scheduling: attach the answer when vLLM's output has been copied."""

    def __init__(self, inner: AsyncModelRunnerOutput, result: StepResult) -> None:
        self.inner, self.result = inner, result

    def get_output(self) -> ModelRunnerOutput:
        out = self.inner.get_output()
        out.symphony = self.result
        return out


class SymphonyRunnerMixin:
    """Put in front of a V1 GPUModelRunner class. State lives on the instance, made on first use: vLLM made the instance."""

    input_batch: Any
    requests: dict[str, Any]
    positions: Any
    model: Any
    execute_model_state: Any
    kept_rows: RowPool

    def _prepare_inputs(self, scheduler_output: Any, num_scheduled_tokens: Any) -> Any:
        out = super()._prepare_inputs(scheduler_output, num_scheduled_tokens)  # type: ignore[misc]
        plan: StepPlan | None = getattr(scheduler_output, "symphony", None)
        if plan is None or not any(p.deltas for p in plan.rows.values()):
            return out
        first = 0
        for i, rid in enumerate(self.input_batch.req_ids):
            n = int(num_scheduled_tokens[i])
            row = plan.rows.get(rid)
            if row is not None and row.deltas:
                ends = [at for at, _ in row.deltas[1:]] + [n]
                for (at, delta), end in zip(row.deltas, ends, strict=True):
                    if delta:
                        self.positions[first + at : first + end] += delta
            first += n
        return out

    def _update_states(self, scheduler_output: Any) -> Any:
        plan: StepPlan | None = getattr(scheduler_output, "symphony", None)
        if plan is not None:
            for rid, row in plan.rows.items():
                if row.given:
                    self._give(rid, row.given)
        return super()._update_states(scheduler_output)  # type: ignore[misc]

    def _give(self, rid: str, tokens: tuple[int, ...]) -> None:
        """Tokens of a program in place of the one that vLLM sampled last for this request."""
        self.requests[rid].output_token_ids[-1:] = tokens
        batch = self.input_batch
        i = batch.req_id_to_index.get(rid)
        if i is not None:
            first = batch.num_tokens_no_spec[i] - 1
            end = first + len(tokens)
            batch.token_ids_cpu[i, first:end] = tokens
            batch.is_token_ids[i, first:end] = True
            batch.num_tokens_no_spec[i] = end

    def sample_tokens(self, grammar_output: Any) -> Any:
        state = self.execute_model_state  # None on steps without tokens and on all but the last pipeline rank
        plan: StepPlan | None = getattr(state.scheduler_output, "symphony", None) if state is not None else None
        if plan is None or state.logits is None:  # tensor parallel ranks other than the first may hold no logits
            return super().sample_tokens(grammar_output)  # type: ignore[misc]
        with torch.inference_mode():
            result = self._carry_out(state, plan)
        batch = self.input_batch
        histories, generators = self._key_samplers(plan)
        try:
            out = super().sample_tokens(grammar_output)  # type: ignore[misc]
        finally:
            if histories is not None:
                batch.sampling_metadata.output_token_ids = histories
            batch.generators.update(generators)
        if result is None:
            return out
        if isinstance(out, AsyncModelRunnerOutput):
            return _WithResult(out, result)
        out.symphony = result
        return out

    # ---- distributions, rows, predicates

    def _carry_out(self, state: Any, plan: StepPlan) -> StepResult | None:
        kept = self._rows()
        kept.drop(plan.drop)
        scheduled = state.scheduler_output.num_scheduled_tokens
        where: list[tuple[str, int]] = []
        plans: list[RowPlan] = []
        last: list[int] = []  # row of the logits, for outputs at the last token of a request
        hidden: list[int] = []  # row of the hidden states, for the others
        order: list[tuple[bool, int]] = []
        watched: list[tuple[int, str, RowPlan]] = []
        first = 0
        for i, rid in enumerate(self.input_batch.req_ids):
            n = scheduled[rid]
            p = plan.rows.get(rid)
            if p is not None:
                if p.until is not None:
                    watched.append((i, rid, p))
                for offset in p.outputs:
                    is_last = offset == n - 1
                    order.append((is_last, len(last) if is_last else len(hidden)))
                    (last if is_last else hidden).append(i if is_last else first + offset)
                    where.append((rid, offset))
                    plans.append(p)
            first += n
        logits = state.logits
        fired = self._watch(logits, watched)
        for i, rid, p in watched:
            if rid in fired:
                order.append((True, len(last)))
                last.append(i)
                where.append((rid, scheduled[rid] - 1))
                plans.append(p)
        if not where:
            return None
        rows = logits if last == list(range(len(logits))) else logits[torch.tensor(last, dtype=torch.long, device=logits.device)]
        if hidden:
            more = self.model.compute_logits(state.hidden_states[torch.tensor(hidden, device=logits.device)])
            index = [j if is_last else len(last) + j for is_last, j in order]
            rows = torch.cat((rows, more))[torch.tensor(index, device=logits.device)]
        for j, (rid, offset) in enumerate(where):
            p = plans[j]
            if rid in fired:
                kept.keep(p.until_row, rows[j])
            for at, row_id in p.keep:
                if at == offset:
                    kept.keep(row_id, rows[j])
        top_k = max(p.top_k for p in plans)
        numbers, ids = distributions(rows, top_k, [p.temperature for p in plans], [p.entropy for p in plans])
        return StepResult(where, numbers, ids, frozenset(fired))

    def _watch(self, logits: torch.Tensor, watched: list[tuple[int, str, RowPlan]]) -> set[str]:
        if not watched:
            return set()
        index = [i for i, _, _ in watched]
        rows = PredicateRows((logits if index == list(range(len(logits))) else logits[torch.tensor(index)]).float())
        return {rid for j, (_, rid, p) in enumerate(watched) if p.until is not None and rows.fires(j, p.until, p.num_generated)}

    def _rows(self) -> RowPool:
        if not hasattr(self, "kept_rows"):
            self.kept_rows = RowPool()
        return self.kept_rows

    # ---- sampler state belongs to the position

    def _key_samplers(self, plan: StepPlan) -> tuple[list[list[int]] | None, dict[int, Any]]:
        """Key the generators of seeded file jobs to this position, and let penalties count from where the file says.

        Returns what was taken out of vLLM's batch for this step: its own output lists, if they were replaced, and the generators of
        requests whose token of this step is thrown away (inside a prefill vLLM would wind them back, which a CPU generator cannot).
        """
        batch = self.input_batch
        if any(p.penalty_row for p in plan.rows.values()):
            batch.update_async_output_token_ids()  # asynchronous scheduling: fill in what was sampled since
        histories: list[tuple[int, list[int]]] = []
        generators: dict[int, Any] = {}
        for rid, p in plan.rows.items():
            i = batch.req_id_to_index.get(rid)
            if i is None:
                continue
            if i in batch.generators:
                if p.draw_seed is not None:
                    batch.generators[i].manual_seed(p.draw_seed)
                else:
                    generators[i] = batch.generators.pop(i)
            if p.penalty_row:
                state = self.requests[rid]
                histories.append((i, state.prompt_token_ids[p.penalty_from :] + state.output_token_ids))
        if not histories:
            return None, generators
        metadata = batch.sampling_metadata
        own: list[list[int]] = metadata.output_token_ids
        replaced = list(own)
        for i, history in histories:
            replaced[i] = history
        metadata.output_token_ids = replaced
        return own, generators

    # ---- asked for between steps, by collective_rpc

    def symphony_drop_rows(self, row_ids: list[int]) -> None:
        self._rows().drop(row_ids)

    def symphony_row(self, row_id: int) -> bytes | None:
        """The whole row, float32 little-endian, or None when this worker does not hold it."""
        row = self._rows().get(row_id)
        return None if row is None else row.float().cpu().numpy().astype("<f4").tobytes()

    def symphony_sample(
        self,
        row_id: int,
        sampler: Sampler,
        tokens: list[int],
        penalty_from: int,
        bitmask: Any,
        seed: int,
        position: int,
        first_draw: int,
        n: int,
    ) -> tuple[list[int], list[float]] | None:
        """Draw from a kept row; None when this worker does not hold it."""
        row = self._rows().get(row_id)
        if row is None:
            return None
        with torch.inference_mode():
            return sample_row(row, sampler, tokens, penalty_from, bitmask, seed, position, first_draw, n)

    def symphony_num_rows(self) -> int:
        return len(self._rows())
