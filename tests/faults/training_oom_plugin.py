"""Stand-in for a GPU whose memory holds micro-batches of two dialogues: an ms-swift plug-in.

It raises what torch raises, from where torch would: the training step. Used by
test_training_faults.py through `training.extra.external_plugins`.
"""

import torch
from swift.trainers import Seq2SeqTrainer

inner = Seq2SeqTrainer.training_step


def training_step(self, model, inputs, *args, **kwargs):
    if self.state.global_step >= 6 and len(inputs["input_ids"]) > 2:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
    return inner(self, model, inputs, *args, **kwargs)


Seq2SeqTrainer.training_step = training_step
