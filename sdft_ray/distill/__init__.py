"""The mathematics of self-distillation: torch and nothing else, one module per formula's concern."""
