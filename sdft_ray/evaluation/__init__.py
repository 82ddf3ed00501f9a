"""What the student can do: its answers against gold ones, and how likely it finds what it knew before.

Answers are scored by rule (scorers/) or by a judge model (judge.py).
"""
