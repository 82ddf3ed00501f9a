"""Examples: where they come from, how they become prompts, how samples are packed for a forward pass."""
