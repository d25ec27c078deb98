# In:   <results>/subjects/<subject>/readiness.json, <results>/benchmarks/<benchmark>/manifest.json
# Out:  <results>/evaluations/<subject>/<suite>.json, answers and records in folders beside it
#       <results>/scores/<subject>/<benchmark>.json
#       <results>/runs/<run>/swanlab.json: how adding a run's scores to its SwanLab experiment went


rule evaluate_suite:
    input:
        unpack(served),
        readiness=paths.readiness,
        evalscope=paths.environment.format(env="evalscope"),
        benchmarks=benchmarks_of,
        questions=questions_of,
    output:
        paths.evaluation,
    log:
        "<logs>/evaluate_suite/{subject}/{suite}.log",
        server="<logs>/evaluate_suite/{subject}/{suite}.server.log",
    benchmark:
        "<logs>/evaluate_suite/{subject}/{suite}.tsv"
    priority: 1
    conda:
        "../envs/uv.yaml"
    threads: ask("evaluate_suite", "threads", 4)
    resources:
        **on_gpus(subject_gpus("evaluate_suite"), PATHS.evaluation),
        mem_mb=memory("evaluate_suite", 32000, model_of_subject),
        runtime=minutes("evaluate_suite", 720),
    params:
        **told("evaluate_suite"),
        weights=weights_flags,
    message:
        "Asking {wildcards.subject} the suite {wildcards.suite}"
    shell:
        '"$SFTFLOW" evalscope evaluate.py --settings {params.settings:q} {params.weights}'
        " --readiness {input.readiness:q} --benchmarks {input.benchmarks:q} --threads {threads}"
        " --server-log {log.server:q} --output {output:q} 2> {log[0]:q}"


# A job for each suite, not for each of its benchmarks: of a run's 21 jobs, with nine benchmarks, their scores were nine.
for suite, benchmarks in study["suites"].items():

    rule:
        name:
            f"score_suite_{suite}"
        input:
            evaluation=paths.evaluation.format(subject="{subject}", suite=suite),
            contamination=contamination_of,
        output:
            collect(paths.score, subject="{subject}", benchmark=benchmarks),
        log:
            f"<logs>/score_suite/{{subject}}/{suite}.log",
        localrule: True
        conda:
            "../envs/uv.yaml"
        threads: 1
        resources:
            mem_mb=memory("score_suite", 1000),
            runtime=minutes("score_suite", 10),
        params:
            **told("score_suite"),
            code=f"code: {code.digest('scripts/score.py')[:12]}",
            contamination=contamination_flag,
        message:
            f"Scoring {{wildcards.subject}} on the suite {suite}"
        shell:
            '"$SFTFLOW" workflow score.py --evaluation {input.evaluation:q} --settings {params.settings:q}'
            " {params.contamination} 2> {log:q}"


rule track_scores:
    input:
        training=paths.training,
        scores=collect(paths.score, subject="{run}", benchmark=asked),
        environment=paths.environment.format(env="swift"),
    output:
        paths.tracked,
    log:
        "<logs>/track_scores/{run}.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        **told("track_scores"),
    message:
        "Adding the scores of {wildcards.run} to its SwanLab experiment"
    shell:
        '"$SFTFLOW" swift track.py --training {input.training:q} --settings {params.settings:q}'
        " --scores {input.scores:q} --output $(dirname {output:q})/swanlab --record {output:q} 2> {log:q}"
