"""What the plug-in changes in ms-swift's training loop leaves the training what it was.

Training mode comes back after an evaluation, also where another module wraps the model; and a step
keeps its dialogues when they are dealt to its micro-batches anew.

Runs in ms-swift's environment: `envs/swift/.venv/bin/python tests/unit/check_plugin.py`.
test_kernels.py does it.
"""

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from sftflow.training.plugin import keep_gpu_busy, level


class Wrapped(torch.nn.Module):
    """As DistributedDataParallel: what is trained is inside."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module


for wrap in (Wrapped, lambda model: model):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
    wrapped = wrap(model)
    optimizer = torch.optim.SGD(wrapped.parameters())
    keep_gpu_busy(
        SimpleNamespace(
            model=model,
            model_wrapped=wrapped,
            optimizer=optimizer,
            is_deepspeed_enabled=False,
            is_fsdp_enabled=False,
            accelerator=SimpleNamespace(scaler=None),
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

lengths = [100, 900, 20, 30, 500, 480, 10, 700, 60, 610]
batches = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
dealt = list(level(iter(batches), lengths, 2))
assert [len(batch) for batch in dealt] == [3, 3, 2, 2]
for before, after in ((batches[:2], dealt[:2]), (batches[2:], dealt[2:])):
    assert sorted(itertools.chain(*before)) == sorted(itertools.chain(*after))
sums = [sum(lengths[row] for row in batch) for batch in dealt]
assert sums == [1000, 1030, 710, 670]
