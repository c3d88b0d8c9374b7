"""What the fork server of engines (warm.py) imports before it forks: nothing here may start a thread."""

from importlib import import_module

from vllm_symphony.engine.own import prepare_environment

MODULES = (
    "transformers.models.llama.modeling_llama",
    "vllm.engine.arg_utils",
    "vllm.model_executor.models.llama",
    "vllm.v1.engine.core",
    "vllm.v1.structured_output",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.v1.worker.cpu_worker",
    "tests.engine.reference",
    "vllm_symphony.engine.scheduler",
    "vllm_symphony.engine.worker",
)

prepare_environment()
for name in MODULES:
    import_module(name)
