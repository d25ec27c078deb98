# In:   <results>/subjects/<subject>/readiness.json, <results>/benchmarks/<benchmark>/manifest.json
# Out:  <results>/evaluations/<subject>/<suite>.json, answers and records in folders beside it
#       <results>/scores/<subject>/<benchmark>.json
#       <results>/runs/<run>/swanlab.json: how adding a run's scores to its SwanLab experiment went


rule evaluate_suite:
    input:
        unpack(served_files),
        readiness="<results>/subjects/{subject}/readiness.json",
        evalscope="<results>/environments/evalscope.json",
        benchmarks=collect(
            "<results>/benchmarks/{benchmark}/manifest.json",
            benchmark=lookup("suites/{suite}", within=study),
        ),
    output:
        "<results>/evaluations/{subject}/{suite}.json",
    log:
        "<logs>/evaluate_suite/{subject}/{suite}.log",
        server="<logs>/evaluate_suite/{subject}/{suite}.server.log",
    benchmark:
        "<logs>/evaluate_suite/{subject}/{suite}.tsv"
    conda:
        "../envs/uv.yaml"
    threads: ask("evaluate_suite", "threads", 4)
    resources:
        gpu=subject_gpus("evaluate_suite"),
        mem_mb=ask("evaluate_suite", "mem_mb", 32000),
        runtime=ask("evaluate_suite", "runtime", 720),
    params:
        python=interpreter("evalscope"),
        settings=evaluate_settings,
        weights=weights_flags,
    message:
        "Asking {wildcards.subject} the suite {wildcards.suite}"
    shell:
        "{params.python} scripts/evaluate.py --settings {params.settings:q} {params.weights}"
        " --readiness {input.readiness:q} --benchmarks {input.benchmarks:q} --threads {threads}"
        " --server-log {log.server:q} --output {output:q} 2> {log[0]:q}"


rule score_benchmark:
    input:
        evaluation=evaluation_of,
        contamination=contamination_of,
        programs=SCORE_PROGRAMS,
    output:
        "<results>/scores/{subject}/{benchmark}.json",
    log:
        "<logs>/score_benchmark/{subject}/{benchmark}.log",
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=ask("score_benchmark", "mem_mb", 1000),
        runtime=ask("score_benchmark", "runtime", 10),
    params:
        python=interpreter("workflow"),
        confidence=study["statistics"]["confidence"],
        contamination=contamination_flag,
    message:
        "Scoring {wildcards.subject} on {wildcards.benchmark}"
    shell:
        "{params.python} scripts/score.py --evaluation {input.evaluation:q} --benchmark {wildcards.benchmark}"
        " --confidence {params.confidence} {params.contamination} 2> {log:q}"


rule track_scores:
    input:
        training="<results>/runs/{run}/training.json",
        scores=collect("<results>/scores/{{run}}/{benchmark}.json", benchmark=asked),
        environment="<results>/environments/swift.json",
    output:
        "<results>/runs/{run}/swanlab.json",
    log:
        "<logs>/track_scores/{run}.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        python=interpreter("swift"),
        settings=as_json(study["tracking"]["swanlab"]),
    message:
        "Adding the scores of {wildcards.run} to its SwanLab experiment"
    shell:
        "{params.python} scripts/track.py --training {input.training:q} --settings {params.settings:q}"
        " --scores {input.scores:q} --output $(dirname {output:q})/swanlab --record {output:q} 2> {log:q}"
