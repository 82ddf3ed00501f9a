"""How weights travel from the learner to the workers: packed in buckets, stamped with their version.

The driver's end is `channel`, the learner's is learner/publisher.py, the workers' is `opening`. What carries the
buckets is a setting (`config/weights.py`): Ray's object store, memory that all processes of a node map
(`memory_file`), or NCCL (`nccl`).
"""
