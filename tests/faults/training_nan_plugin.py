"""Stand-in for a gradient that overflows where the loss does not: an ms-swift plug-in.

From the seventh step on, one gradient is not a number. Used by test_training_faults.py through
`training.extra.external_plugins`.
"""

from swift.trainers import Seq2SeqTrainer

inner = Seq2SeqTrainer.training_step


def training_step(self, model, *args, **kwargs):
    loss = inner(self, model, *args, **kwargs)
    if self.state.global_step >= 6:
        next(p.grad for p in model.parameters() if p.grad is not None).fill_(float("nan"))
    return loss


Seq2SeqTrainer.training_step = training_step
