"""The weights a learner would publish, in plain transformers."""

import torch
from transformers import AutoModelForCausalLM


class TrainedStudent:
    """A network whose every parameter changes with its version."""

    def __init__(self, folder: str):
        self.network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.version = 0

    @torch.no_grad()
    def train(self) -> int:
        """Changes every parameter; returns the new version."""
        self.version += 1
        generator = torch.Generator().manual_seed(self.version)
        for parameter in self.network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        return self.version
