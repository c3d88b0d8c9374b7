"""The image that the kernel is told of is the one that programs run in."""

import platform

import numpy

from vllm_symphony.engine import image
from vllm_symphony.runtime.sandbox import image as sandbox


def test_what_the_kernel_is_told_of_is_what_the_sandbox_lets_programs_read():
    assert image.PACKAGES == sandbox._PACKAGES
    assert image.image() == {"python": platform.python_version(), "numpy": numpy.__version__}
