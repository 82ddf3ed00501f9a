"""Bare machines over ssh: a run as a detached script on each of them, whose Ray nodes make a cluster of their own."""
