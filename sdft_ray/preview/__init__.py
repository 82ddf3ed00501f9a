"""mode=show: what the model will read of some rows, before anything is trained."""
