"""Engine that generates and scores on a vLLM server."""
