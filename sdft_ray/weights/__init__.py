"""How weights travel from the learner to the workers: packed in buckets, stamped with their version."""
