"""What a reader must know before believing a number: every flag, its text and what to do about it.

Standard library only, so that the programs of every environment can say it in the terminal too. The
Chinese of the texts stands in chinese.py, by the same kinds and values.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Message:
    """What a kind of flag is called, and templates of what it says; `{…}` are the flag's values."""

    name: str
    text: str
    remedy: str


# In the order in which a reader needs them: the weights, the answers, the scores, the judges, the
# training, the data, what is not there.
KINDS = {
    "destroyed": Message(
        "Weights destroyed",
        "{what} rose from {before} to {after}; a uniform guess over the vocabulary has {uniform}",
        "Use nothing of these weights: lower learning_rate to a tenth, or raise warmup_ratio",
    ),
    "diverged": Message(
        "Training diverged",
        "{what} rose from {before} to {after}, beyond its noise of {noise}",
        "Lower learning_rate, or look for bad rows in the data",
    ),
    "prompt": Message(
        "Broken answer to a fixed prompt",
        "The answer to the fixed prompt {prompt} is broken now ({faults}), and was not before",
        "Read it in the table of fixed prompts; train less, or mix other dialogues in",
    ),
    "broken": Message(
        "Broken behaviour",
        "{what}: from {before} % to {after} % of {n} answers ({group})",
        "Read these answers before any score; lower learning_rate or num_train_epochs, and look "
        "whether the training data end their answers",
    ),
    "forgotten": Message(
        "Language forgotten",
        "Loss on neutral text {text} rose from {before} to {after} nats per token, beyond the "
        "margin of {margin}",
        "Language itself was forgotten: lower learning_rate, lora_rank or num_train_epochs, or mix "
        "general dialogues in",
    ),
    "contaminated": Message(
        "Benchmark in the training data",
        "{overlapping} of {n} questions of {benchmark} ({share} %) stand in these dialogues",
        "Go by the difference on the clean questions, and take the dialogues out that the table of "
        "data names before training again",
    ),
    "contaminated verdict": Message(
        "Verdict rests on contamination",
        "{of}: {verdict} over all questions, {clean} on the {n} clean ones",
        "Report the verdict on the clean questions",
    ),
    "format shift": Message(
        "Answers changed their format",
        "{benchmark}: from {before} % to {after} % of the answers state nothing",
        "Read the table Format or knowledge before the difference: what moved is format, not "
        "knowledge",
    ),
    "misread": Message(
        "Answers read otherwise than stated",
        "{benchmark}: {share} % right by evalscope's reading, {strict} % by what the answers state",
        "Go by the strict accuracy, and read some answers with scripts/trace.py",
    ),
    "cut off": Message(
        "Answers cut off",
        "{benchmark}: {share} % of the answers were cut off",
        "Raise max_tokens; where answers never end, the training data may not end theirs",
    ),
    "unstated": Message(
        "Answers state nothing",
        "{benchmark}: {share} % of the answers state no choice or number",
        "Compare with the accuracy of the answers that do (If stated): far above, the format was "
        "lost and not the knowledge",
    ),
    "empty": Message(
        "Answers without text",
        "{benchmark}: {count} of {n}",
        "Read their prompts with scripts/trace.py; look at chat template and stop tokens",
    ),
    "off published": Message(
        "Off the published figure",
        "{benchmark}: {score} here, {published} published ({source})",
        "Check prompt, few-shot examples, template and parsing before comparing with others' "
        "figures",
    ),
    "inconsistent judge": Message(
        "Judge inconsistent",
        "Judge {judge} gave the same verdict in both orders in {share} % of turns (expected: "
        "{least} % or more); whoever stood first won {first} % of its decisions",
        "Its win rate says little, since most disagreements count as ties: take a stronger judge",
    ),
    "overfitting": Message(
        "Overfitting",
        "Validation loss rose from {before} to {after} while training loss fell to {final}",
        "Lower num_train_epochs, learning_rate or lora_rank, or take more dialogues",
    ),
    "overfitted": Message(
        "Overfitting, by held-out dialogues",
        "Held-out loss per token was lowest at step {step} ({before}), and is {after} at step "
        "{last}, which is served: {rise}",
        "The checkpoint of step {step} is better by held-out loss; lower num_train_epochs or "
        "learning_rate, or take more dialogues",
    ),
    "served unlike": Message(
        "Sides of a comparison served differently",
        "{baseline}: {before}; here: {after}",
        "Serve both alike (serving of the model and of the run), else a part of the difference may "
        "be the server's",
    ),
    "never better": Message(
        "Worse than before training",
        "Held-out loss per token was lowest before the first step ({before}), and is {after} at "
        "step {last}, which is served: {rise}",
        "Lower learning_rate, or look whether the held-out dialogues are like those trained on",
    ),
    "flat": Message(
        "Training changed nothing",
        "{what} did not change beyond its noise of {noise}: {before} at first, {after} at the end",
        "Raise learning_rate or num_train_epochs, and look whether target_modules names what "
        "should learn",
    ),
    "out of memory": Message(
        "Memory ran out",
        "Memory ran out: micro-batch lowered to {micro_batch} × {accumulation} (the same dialogues "
        "a step)",
        "Nothing is wrong with the weights; per_device_train_batch_size {micro_batch} saves the "
        "attempts",
    ),
    "dropped rows": Message(
        "Rows dropped",
        "{dropped} of {rows} rows ({share} %): {reasons}",
        "Look at the lines that the table of data names, and mend or accept them",
    ),
    "not comparable": Message(
        "Not comparable",
        "{benchmark}: {why}",
        "Evaluate both subjects again with the same settings of the benchmark",
    ),
    "stale": Message(
        "Stale",
        "{what} was made with other settings, data or weights than the config now names: {changes}",
        "Run the workflow again, or set the config back; until then it is left out",
    ),
    "missing": Message(
        "Missing",
        "No score of {benchmark}",
        "Run the workflow again; a job that failed says why in its log",
    ),
}


@dataclass(frozen=True)
class Flag:
    """One warning: its kind (of KINDS), the run, subject or dataset it is about, what its text
    names."""

    kind: str
    where: str
    values: dict[str, str]

    @property
    def text(self) -> str:
        return KINDS[self.kind].text.format(**self.values)

    @property
    def remedy(self) -> str:
        return KINDS[self.kind].remedy.format(**self.values)

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}. {self.remedy}."

    def entry(self) -> dict[str, str]:
        """As a record holds it."""
        return {"kind": self.kind, "text": self.text, "remedy": self.remedy}


def in_order(flags: Iterable[Flag]) -> list[Flag]:
    """Each once, the kind that matters most first."""
    places = {kind: place for place, kind in enumerate(KINDS)}
    once = {(flag.kind, flag.where, flag.text): flag for flag in flags}
    return sorted(once.values(), key=lambda flag: places[flag.kind])


def kinds(flags: Iterable[Flag]) -> str:
    """For a cell of a table."""
    return ", ".join(dict.fromkeys(flag.kind for flag in flags))


NEAR = 0.9  # of a uniform guess's loss: hardly anything is left of what the model knew
RAISED = 1.1  # times the loss before: where it began near a uniform guess, that alone says nothing
TRIFLE = 0.01  # of a loss: a change of less is none, however small its noise


def noise(loss: float, *errors: float | None) -> float:
    """How much of a change in this loss means nothing: two standard errors, at least a trifle.

    errors: of what is compared; None, where there is one measurement only, counts as 0.
    """
    return max(2 * math.hypot(*(error or 0.0 for error in errors)), TRIFLE * loss)


def training_flags(run: str, record: dict) -> list[Flag]:
    """What is suspicious about a finished training, from its training.json."""
    judged = "window_steps" in record  # what an older version noted were losses of single steps
    flags = [flag] if judged and (flag := loss_flag(run, record)) else []
    if lowered := record.get("out_of_memory"):
        sizes = {name: str(lowered[-1][name]) for name in ("micro_batch", "accumulation")}
        flags.append(Flag("out of memory", run, sizes))
    return flags


def loss_flag(run: str, record: dict) -> Flag | None:
    """The worst that is wrong with the losses of a training.

    Training loss goes from the mean over the first window of steps to that over the last; the first
    step alone saw weights that nothing had changed. Validation loss, where there are rows for it,
    goes from before the first step to after the last.
    """
    first, final, start = record["first_loss"], record["final_loss"], record["curve"]["loss"][0]
    before, after = record.get("validation_loss_before"), record.get("validation_loss")
    uniform = record["uniform_loss"]

    def flag(kind: str, **values: float | str | None) -> Flag:
        texts = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in values.items()}
        return Flag(kind, run, texts)

    training = {"what": "Training loss", "before": first, "after": final}
    checked = {"what": "Validation loss", "before": before, "after": after}

    if before and (after > 2 * before or after > max(NEAR * uniform, RAISED * before)):
        return flag("destroyed", **checked, uniform=uniform)
    if final > max(NEAR * uniform, RAISED * start):
        return flag("destroyed", **training | {"before": start}, uniform=uniform)

    steps_noise = noise(first, record["first_loss_se"], record["final_loss_se"])
    fell = final < first - steps_noise
    if final > first + steps_noise:
        return flag("diverged", **training, noise=steps_noise)
    if fell and after:
        best, rise = record["best_validation_loss"], record["validation_rise"]
        if rise > noise(best, record["validation_rise_se"]):
            return flag("overfitting", before=best, after=after, final=final)
    if fell:
        return None
    if before:
        check_noise = noise(before, record["validation_change_se"])
        if after > before + check_noise:
            return flag("diverged", **checked, noise=check_noise)
        if after >= before - check_noise:
            return flag("flat", **checked, noise=check_noise)
    elif record["steps"] >= 2 * record["window_steps"]:  # else the two windows overlap
        return flag("flat", **training, noise=steps_noise)
    return None
