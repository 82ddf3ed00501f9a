"""A job while it runs: a live view of it in the terminal, and the stacks of its processes.

Nothing here changes anything of a run. What is needed of Ray is imported where it is called.
"""
