"""What the vLLM engines of rollout and teacher workers share: their start, their weights in place, their end."""
