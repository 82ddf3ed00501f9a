"""The mathematics of self-distillation: torch and nothing else, one module per formula's concern.

The training path: `learner/objective.py` calls `fused_loss.py`, which cuts tokens into chunks; `chunks.py` computes a
chunk's terms and their gradient, with the divergence's own closed form from `divergence.py`; `reduction.py` turns the
terms into the loss. `distributions.py` is below them all: heads, logits, and what a payload tells of the teacher's.
`reference_loss.py` does not train: the tests hold the fused loss against it.
docs/method.md has the formulas.
"""
