"""Metric names and units, and where metrics go: files, terminal, Weights & Biases, Prometheus.

Nothing is imported here: `loop.py` takes its timer from `tracking.phases` and must not reach a vendor by it.
"""
