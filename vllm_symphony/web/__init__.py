"""HTTP: vLLM's own OpenAI server with a door, programs and files in it."""
