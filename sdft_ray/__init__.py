"""Self-Distillation Fine-Tuning (arXiv 2601.19897) as a distributed job. Start reading at `loop.py`."""

__version__ = "0.1.0"
