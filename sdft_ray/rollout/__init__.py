"""Completions: sampled from the student by vLLM, or the demonstrations themselves."""
