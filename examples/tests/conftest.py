"""Gives the tests here the fixture `machine`."""

from vllm_symphony.testing.fixture import machine  # noqa: F401
