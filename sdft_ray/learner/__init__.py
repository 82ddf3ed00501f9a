"""The student in training: one DeepSpeed rank an actor, its optimizer, its moving average, its checkpoints."""
