"""Weight sync: how weights travel from the learner to the workers, packed in buckets, stamped with their version.

`plan` decides who publishes what on which channel. `channel` says what a channel is. `object_store`, `shared_memory`
and `nccl` are one each, with the learner's end, the workers' and the driver's. Below them are `fragments` (ZeRO
shards) and `buckets`.
"""
