"""Tasks of lm_eval on files: the same prompts and the same metrics as its own, which read the hub."""
