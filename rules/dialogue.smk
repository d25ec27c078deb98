# In:   the weights of a subject, <results>/datasets/<dataset>/receipt.json with validation.jsonl beside it
# Out:  <results>/dialogue/<subject>/likelihood.json: how likely held-out dialogues and neutral text are
#       <results>/dialogue/<run>/curve.json: the same for the checkpoints of a run, where some are kept
#       <results>/dialogue/<subject>/answers.json: what the subject answers in held-out dialogues
#       <results>/dialogue/<subject>/behaviour.json: how its answers behave, to dialogues and to benchmarks
#       <results>/judgements/<judge>/<baseline>--<candidate>.json: which answers a judge prefers, both orders of each
#       <results>/crisis/<judge>/<subject>.json: what a judge finds in the answers to messages of a crisis
#
# Records of single texts and answers lie beside each, and are named in it with their digest.


rule measure_likelihood:
    input:
        unpack(own_weights),
        datasets=dialogues_of,
        environment=paths.environment.format(env="swift"),
    output:
        paths.likelihood,
    log:
        "<logs>/measure_likelihood/{subject}.log",
    benchmark:
        "<logs>/measure_likelihood/{subject}.tsv"
    priority: 1
    conda:
        "../envs/uv.yaml"
    threads: ask("measure_likelihood", "threads", 4)
    resources:
        **on_gpus(subject_gpus("measure_likelihood")),
        mem_mb=memory("measure_likelihood", 32000, model_of_subject),
        runtime=minutes("measure_likelihood", 120),
    params:
        **told("measure_likelihood", content=neutral_content),
        weights=manifest_flags,
    message:
        "How likely {wildcards.subject} finds held-out dialogues, and neutral text"
    shell:
        '"$SFTFLOW" swift likelihood.py --settings {params.settings:q} {params.weights}'
        " --datasets {input.datasets:q} --output {output:q} 2> {log:q}"


rule measure_curve:
    input:
        unpack(of_run),
        checkpoints=paths.checkpoints,
        environment=paths.environment.format(env="swift"),
    output:
        paths.curve,
    log:
        "<logs>/measure_curve/{run}.log",
    benchmark:
        "<logs>/measure_curve/{run}.tsv"
    conda:
        "../envs/uv.yaml"
    threads: ask("measure_curve", "threads", 4)
    resources:
        **on_gpus(curve_gpus("measure_curve")),
        mem_mb=memory("measure_curve", 32000, model_of_run),
        runtime=minutes("measure_curve", 240),
    params:
        **told("measure_curve", content=neutral_content, run=stepwise),
    message:
        "How likely the checkpoints of {wildcards.run} find held-out dialogues, and neutral text"
    shell:
        '"$SFTFLOW" swift likelihood.py --settings {params.settings:q} --manifest {input.model:q}'
        " --checkpoints {input.checkpoints:q} --datasets {input.dataset:q} --output {output:q} 2> {log:q}"


rule answer_dialogues:
    input:
        unpack(served),
        readiness=paths.readiness,
        datasets=dialogues_of,
        evalscope=paths.environment.format(env="evalscope"),
    output:
        paths.dialogue_answers,
    log:
        "<logs>/answer_dialogues/{subject}.log",
        server="<logs>/answer_dialogues/{subject}.server.log",
    benchmark:
        "<logs>/answer_dialogues/{subject}.tsv"
    priority: 1
    conda:
        "../envs/uv.yaml"
    threads: ask("answer_dialogues", "threads", 4)
    resources:
        **on_gpus(subject_gpus("answer_dialogues"), PATHS.dialogue_answers),
        mem_mb=memory("answer_dialogues", 32000, model_of_subject),
        runtime=minutes("answer_dialogues", 240),
    params:
        **told("answer_dialogues", content=crisis_content),
        weights=weights_flags,
    message:
        "Letting {wildcards.subject} answer turns of held-out dialogues"
    shell:
        '"$SFTFLOW" evalscope answer_dialogues.py --settings {params.settings:q} {params.weights}'
        " --readiness {input.readiness:q} --datasets {input.datasets:q} --threads {threads}"
        " --server-log {log.server:q} --output {output:q} 2> {log[0]:q}"


rule measure_behaviour:
    input:
        answers=paths.dialogue_answers,
        evaluations=collect(paths.evaluation, suite=study["evaluate"]["suites"], allow_missing=True),
    output:
        paths.behaviour,
    log:
        "<logs>/measure_behaviour/{subject}.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        code=f"code: {code.digest('scripts/behaviour.py')[:12]}",
    message:
        "Looking at how the answers of {wildcards.subject} behave"
    shell:
        '"$SFTFLOW" workflow behaviour.py --answers {input.answers:q}'
        " --evaluations {input.evaluations:q} --output {output:q} 2> {log:q}"


rule judge_pair:
    input:
        unpack(judge_served),
        answers=judged_answers,
        readiness=judge_ready,
        evalscope=paths.environment.format(env="evalscope"),
    output:
        paths.judgement,
    log:
        "<logs>/judge_pair/{judge}/{pair}.log",
        server="<logs>/judge_pair/{judge}/{pair}.server.log",
    benchmark:
        "<logs>/judge_pair/{judge}/{pair}.tsv"
    priority: 1
    conda:
        "../envs/uv.yaml"
    threads: ask("judge_pair", "threads", 4)
    resources:
        **on_gpus(judge_gpus("judge_pair"), PATHS.judgement),
        mem_mb=memory("judge_pair", 32000, model_of_judge),
        runtime=minutes("judge_pair", 240),
    params:
        **told("judge_pair", content=rubrics),
        weights=weights_flags,
    message:
        "Letting {wildcards.judge} compare the answers of {wildcards.pair}"
    shell:
        '"$SFTFLOW" evalscope judge.py --settings {params.settings:q} {params.weights}'
        " --readiness {input.readiness:q} --answers {input.answers:q} --threads {threads}"
        " --server-log {log.server:q} --output {output:q} 2> {log[0]:q}"


rule judge_crisis:
    input:
        unpack(judge_served),
        answers=paths.dialogue_answers,
        readiness=judge_ready,
        evalscope=paths.environment.format(env="evalscope"),
    output:
        paths.crisis,
    log:
        "<logs>/judge_crisis/{judge}/{subject}.log",
        server="<logs>/judge_crisis/{judge}/{subject}.server.log",
    benchmark:
        "<logs>/judge_crisis/{judge}/{subject}.tsv"
    priority: 1
    conda:
        "../envs/uv.yaml"
    threads: ask("judge_crisis", "threads", 4)
    resources:
        **on_gpus(judge_gpus("judge_crisis"), PATHS.crisis),
        mem_mb=memory("judge_crisis", 32000, model_of_judge),
        runtime=minutes("judge_crisis", 240),
    params:
        **told("judge_crisis", content=rubrics),
        weights=weights_flags,
    message:
        "Letting {wildcards.judge} look at what {wildcards.subject} answers in a crisis"
    shell:
        '"$SFTFLOW" evalscope judge.py --settings {params.settings:q} {params.weights}'
        " --readiness {input.readiness:q} --answers {input.answers:q} --threads {threads}"
        " --server-log {log.server:q} --output {output:q} 2> {log[0]:q}"
