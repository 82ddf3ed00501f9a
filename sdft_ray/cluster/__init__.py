"""From settings to running actors: which machines, which environment, who may call whom."""
