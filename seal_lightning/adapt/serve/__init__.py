"""Adapted models behind an OpenAI-compatible HTTP endpoint: completions and chat, whole and streamed."""
