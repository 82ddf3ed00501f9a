"""Slurm: a run as one batch job, whose nodes make a Ray cluster of their own."""
