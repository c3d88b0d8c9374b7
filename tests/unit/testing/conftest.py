from vllm_symphony.testing.fixture import machine  # noqa: F401
