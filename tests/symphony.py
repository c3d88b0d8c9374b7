"""`symphony` as a user runs it, with the fake host behind `serve`, unless a device is named."""

import sys
from pathlib import Path

from vllm_symphony.cli.main import main

if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"] and "--device" not in sys.argv:
        from vllm_symphony import node  # other commands start without it

        node.HOST_COMMAND = (sys.executable, str(Path(__file__).with_name("edge") / "fake_host.py"))
    sys.exit(main())
