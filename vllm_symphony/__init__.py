"""Symphony: an operating system for LLM inference programs, on vLLM. Importing it loads nothing heavy; programs import `lip`."""

__version__ = "0.1.0"
