"""Where our classes sit in vLLM's config, by name: every process of vLLM imports them for itself (engine/seats.py)."""

SCHEDULER = "vllm_symphony.engine.scheduler.scheduler_for"
WORKER = "vllm_symphony.engine.worker.SymphonyWorker"
