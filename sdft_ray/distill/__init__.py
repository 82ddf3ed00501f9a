"""The mathematics of self-distillation: torch and nothing else, one module per formula's concern.

The training path: learner/objective.py calls fused.py, which cuts tokens into chunks; chunks.py computes divergence and
gradient of a chunk in closed form; reduction.py turns the terms into the loss. loss.py and the divergences of
divergence.py are the reference that tests hold these against: a change there alone changes no training, except that
chunks.py takes the divergence of TOPK payloads from divergence.py. docs/method.md has the formulas.
"""
