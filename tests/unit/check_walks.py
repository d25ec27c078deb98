"""Training mode comes back after an evaluation, also where another module wraps the model.

Runs in ms-swift's environment: `envs/swift/.venv/bin/python tests/unit/check_walks.py`.
test_kernels.py does it.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from sftflow.swift_plugin import spare_walks


class Wrapped(torch.nn.Module):
    """As DistributedDataParallel: what is trained is inside."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module


for wrap in (Wrapped, lambda model: model):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
    wrapped = wrap(model)
    optimizer = torch.optim.SGD(wrapped.parameters())
    spare_walks(
        SimpleNamespace(
            model=model, model_wrapped=wrapped, optimizer=optimizer, is_deepspeed_enabled=False
        )
    )
    for _ in range(2):
        model.eval()  # as Trainer.evaluation_loop does
        assert not model[1].training
        wrapped.train()  # as Trainer.training_step does
        assert wrapped.training and all(part.training for part in wrapped.modules())
    model[0].weight.grad = torch.ones(4, 4)
    wrapped.zero_grad()
    assert model[0].weight.grad is None
    # a second call walks nowhere
    model[1].train(False)
    wrapped.train()
    assert not model[1].training
