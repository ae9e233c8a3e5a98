"""SEAL, Self-Adapting Language Models (arXiv 2506.10943), as a PyTorch Lightning modular trainer."""

__version__ = "0.1.0"
