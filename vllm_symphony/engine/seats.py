"""What vLLM knows us by, and where our classes sit in its config; each of its processes imports them (engine/seats.py)."""

PLUGIN = "symphony"  # in VLLM_PLUGINS
ON_BY_DEFAULT = ("vllm.general_plugins", "vllm.platform_plugins", "vllm.io_processor_plugins", "vllm.stat_logger_plugins")
PLUGIN_GROUPS = (*ON_BY_DEFAULT, "vllm.endpoint_plugins")  # these last only where VLLM_PLUGINS names them

SCHEDULER = "vllm_symphony.engine.scheduler.scheduler_for"
WORKER = "vllm_symphony.engine.worker.SymphonyWorker"
