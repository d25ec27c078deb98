"""Is a score what its own items say? Standard library only, and quick: there are thousands."""

from math import isclose

QUESTION = 8  # characters that stand for one question in items.questions
SUMMED = ("n", "answers", "unparsed", "truncated")  # over subsets


def contradiction(score: dict) -> str | None:
    """What in a score file contradicts its items or its subsets; None when nothing does."""
    scores, clean, subsets = score["items"]["scores"], score["items"]["clean"], score["subsets"]
    if len(scores) != score["n"]:
        return f"n is {score['n']}, and it has {len(scores)} items"
    if len(score["items"]["questions"]) != QUESTION * score["n"]:
        return f"n is {score['n']}, and items.questions names another number of questions"
    if not near(score["score"], mean(scores)):
        return f"score is {score['score']}, and its items give {mean(scores)}"
    for name in SUMMED:
        if score[name] != (total := sum(subset[name] for subset in subsets)):
            return f"{name} is {score[name]}, and its subsets give {total}"
    together = sum(subset["n"] * subset["score"] for subset in subsets) / score["n"]
    if not near(score["score"], together):
        return f"score is {score['score']}, and its subsets give {together}"
    if clean is not None:
        kept = [item for item, mark in zip(scores, clean, strict=True) if mark == "1"]
        if len(kept) != score["clean"]["n"]:
            return f"clean.n is {score['clean']['n']}, and {len(kept)} items are clean"
        if kept and not near(score["clean"]["score"], mean(kept)):
            return f"clean.score is {score['clean']['score']}, and its items give {mean(kept)}"
    return None


def mean(scores: str | list) -> float:
    """Of items: one digit each where all are 0 or 1, else numbers."""
    if isinstance(scores, str):
        return scores.count("1") / len(scores)
    return sum(map(float, scores)) / len(scores)


def near(one: float, other: float) -> bool:
    return isclose(one, other, abs_tol=1e-9)
