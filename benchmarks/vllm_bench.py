"""vLLM's own serving benchmark (benchmarks/vllm_bench.py): `vllm bench serve`, whose command crashes in the CPU build.

    symphony serve --http 8000 MODEL --served-model-name m
    python -m benchmarks.vllm_bench --base-url http://127.0.0.1:8000 --model m --tokenizer MODEL --num-prompts 200

Nothing is added and nothing changed: it is vLLM's code, and all of its flags.
Source: vllm/entrypoints/cli/benchmark/serve.py (0.32).
"""

from __future__ import annotations

from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

if __name__ == "__main__":
    parser = FlexibleArgumentParser(prog="python -m benchmarks.vllm_bench", description="vLLM's serving benchmark.")
    add_cli_args(parser)
    main(parser.parse_args())
