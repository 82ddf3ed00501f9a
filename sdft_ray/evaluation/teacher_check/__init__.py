"""Whether a model can use the demonstrations of its data at all, asked before anything is trained.

`sample` makes the prompts, `measure` asks the model, `verdict` says what follows, `report` writes it down.
"""
