"""Does a score still stand for what the config asks for today?

Compares the parts of its identity with those that the config, and the manifests in results/, stand
for now. What is not there to compare with (a manifest that was not copied along with the scores)
does not make a score stale.
"""

from collections.abc import Callable
from functools import cache

from sftflow.config import jobs
from sftflow.core import identity
from sftflow.core.layout import PATHS, adapter_of

Read = Callable[..., dict | None]  # Results.read: a template of PATHS, and its names


def checker(study: dict, read: Read) -> Callable[[str, str, dict], list[str]]:
    """A function (subject, benchmark, score) -> what has changed since, empty if nothing has.

    `read` is that of the study's Results.
    """

    @cache
    def of_subject(subject: str) -> tuple[str | None, list[str]]:
        """(weights that stand for the subject now, what of its training has changed)."""
        return current_weights(study, read, subject), training_changes(study, read, subject)

    @cache
    def of_benchmark(benchmark: str) -> list[str]:
        """What of its questions has changed."""
        return since(study, read, "fetch_benchmark", PATHS.benchmark, benchmark)

    def changes(subject: str, benchmark: str, score: dict) -> list[str]:
        was = score["provenance"]
        weights, training = of_subject(subject)
        now = {"weights": weights, **asking(study, read, subject, benchmark)}
        found = training + of_benchmark(benchmark)
        found += otherwise(score, scoring(study, subject))
        if "evalscope" not in now["settings"]:  # its version is not known here
            now["settings"] = {"evalscope": was["settings"].get("evalscope"), **now["settings"]}
        if now["backend"] is None:  # nor that of its software
            versions = {"versions": was["backend"].get("versions")}
            now["backend"] = jobs.backend(study, subject) | versions
        for part, value in now.items():
            if value is not None:
                found += differences(part, was[part], value)
        return found

    return changes


def current_weights(study: dict, read: Read, subject: str) -> str | None:
    entry = study["subjects"][subject]
    if entry["kind"] == "endpoint":
        return identity.weights(None, endpoint=study["endpoints"][subject])
    adapter = None
    if entry["form"] == "merged":
        manifest = read(PATHS.merged, run=entry["run"])
    else:
        manifest = read(PATHS.model, model=entry["model"])
        if entry["form"] == "adapter":
            adapter = read(adapter_of(entry)[0])
            if adapter is None:
                return None
    return None if manifest is None else identity.weights(manifest, adapter)


def training_changes(study: dict, read: Read, subject: str, merging: bool = True) -> list[str]:
    """What of a subject's model, data or training the config now states otherwise than its records.

    Looks at every step that made the weights, merging them among these where it matters: each
    record says with what it was made.
    """
    entry = study["subjects"][subject]
    found: list[str] = []
    if entry["model"]:
        found += since(study, read, "fetch_model", PATHS.model_source, entry["model"])
        found += since(study, read, "native_tokenizer", PATHS.model_tokenizer, entry["model"])
        found += since(study, read, "native_model", PATHS.model, entry["model"])
    if (name := entry["run"]) is None:
        return found
    dataset = study["runs"][name]["dataset"]
    found += since(study, read, "fetch_dataset", PATHS.dataset_source, dataset)
    found += since(study, read, "prepare_dataset", PATHS.dataset_receipt, dataset)
    found += since(study, read, "tokenize_run", PATHS.run_receipt, name)
    found += since(study, read, "train_run", PATHS.training, name)
    if not merging:
        return list(dict.fromkeys(found))
    adapter, merged = (read(path, run=name) for path in (PATHS.adapter, PATHS.merged))
    if adapter and merged:
        found += since(study, read, "merge_run", PATHS.merged, name)
        found += differences("adapter", merged["adapter"], adapter["digest"])
    return list(dict.fromkeys(found))


def since(study: dict, read: Read, rule: str, path: str, name: str) -> list[str]:
    """What has changed since a record of this rule was made, of the keys that decide about it."""
    (wildcard,) = jobs.wildcards(rule)
    record = read(path, **{wildcard: name})
    return otherwise(record or {}, jobs.JOBS[rule](study, name)["made_with"])


def otherwise(record: dict, now: dict) -> list[str]:
    """What a record was made with that is something else now, of the keys that both know."""
    was = record.get("made_with", {})
    return [
        change
        for key, value in now.items()
        if key in was
        for change in differences(key, was[key], value)
    ]


def scoring(study: dict, subject: str) -> dict:
    """What decides about a score beside its answers: as score.py writes it down."""
    made_with = jobs.score_suite(study, subject)["made_with"]
    run = study["subjects"][subject]["run"]
    if run is None:
        return made_with
    dataset = study["runs"][run]["dataset"]
    return made_with | jobs.find_contamination(study, dataset)["made_with"]


def asking(study: dict, read: Read, subject: str, benchmark: str) -> dict:
    """The parts data, settings, generation and backend as of now; None where nothing is known."""
    model = study["models"].get(study["subjects"][subject]["model"])
    asked = jobs.asked_benchmark(study, benchmark)
    data = read(PATHS.benchmark, benchmark=benchmark)
    evalscope = read(PATHS.environment, env="evalscope")
    settings = identity.settings(
        asked,
        model and model["system"],
        evalscope["packages"]["evalscope"] if evalscope else "",
    )
    if evalscope is None:
        del settings["evalscope"]
    return {
        "data": data and data["digest"],
        "settings": settings,
        "generation": identity.generation(
            asked["generation"],
            study["subjects"][subject]["serving"]["backend"],
            study["endpoints"].get(subject),
        ),
        "backend": current_backend(study, read, subject),
    }


def current_backend(study: dict, read: Read, subject: str) -> dict | None:
    """The part backend; None while its environment is not known."""
    entry = study["subjects"][subject]
    packages: dict[str, str] = {}
    if env := identity.BACKENDS[entry["serving"]["backend"]].environment:
        environment = read(PATHS.environment, env=env)
        if environment is None:
            return None
        packages = environment["packages"]
    return identity.backend(jobs.backend(study, subject), packages)


def current_way(study: dict, read: Read, subject: str) -> str | None:
    """What an evaluation started now would keep its answers by (identity.way); None if unknown."""
    weights = current_weights(study, read, subject)
    backend = current_backend(study, read, subject)
    return identity.way(weights, backend) if weights and backend else None


def differences(name: str, was: object, now: object) -> list[str]:
    """`name.key: old → new` for every leaf that was something else; what is absent is None."""
    if was == now:
        return []
    if isinstance(was, dict) and isinstance(now, dict):
        return [
            found
            for key in dict.fromkeys([*now, *was])
            for found in differences(f"{name}.{key}", was.get(key), now.get(key))
        ]
    return [f"{name}: {_brief(was)} → {_brief(now)}"]


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "…"
