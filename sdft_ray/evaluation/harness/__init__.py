"""What a model could do before: public benchmarks through lm-evaluation-harness, on the rollout workers.

The package lm_eval is imported in this folder only, and only by a run that names tasks.
"""
