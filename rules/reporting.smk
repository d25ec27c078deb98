# In:   what lies in <results>: receipts, training records, readiness, chats, scores
# Out:  <results>/tables/*.md and *.csv, <results>/figures/*, <results>/report/*
#
# With stage=report no other rules exist, and the inputs are what is there, not what could be made.
# The programs are inputs here: these jobs are cheap, and a table must not be older than what computes it.


rule write_study:
    output:
        "<results>/study.json",
    log:
        "<logs>/write_study.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=500,
    params:
        digest=digest(study_text),
    message:
        "Writing down the study: the config with all its defaults"
    run:
        write_text(output[0], study_text)


rule plan:
    input:
        reported("runs/{run}/receipt.json", run=trained),
        reported("models/{model}/manifest.json", model=base_models),
        reported("benchmarks/{benchmark}/manifest.json", benchmark=asked),
        study="<results>/study.json",
        programs=PLAN_PROGRAMS,
    output:
        table_files("plan"),
    log:
        "<logs>/plan.log",
    conda:
        "../envs/uv.yaml"
    threads: ask("plan", "threads", 1)
    resources:
        mem_mb=ask("plan", "mem_mb", 1000),
        runtime=ask("plan", "runtime", 10),
    params:
        python=interpreter("workflow"),
    message:
        "Planning: what the study will cost, and what it will be able to show"
    shell:
        "{params.python} scripts/plan.py --results $(dirname {input.study:q}) --settings @{input.study:q} 2> {log:q}"


rule data:
    input:
        reported("datasets/{dataset}/receipt.json", dataset=used_datasets),
        reported("datasets/{dataset}/contamination.json", dataset=used_datasets),
        reported("runs/{run}/receipt.json", run=trained),
        reported("benchmarks/{benchmark}/manifest.json", benchmark=asked),
        study="<results>/study.json",
        programs=TABLE_PROGRAMS,
    output:
        table_files("data"),
    log:
        "<logs>/data.log",
    conda:
        "../envs/uv.yaml"
    threads: ask("tables", "threads", 1)
    resources:
        mem_mb=ask("tables", "mem_mb", 1000),
        runtime=ask("tables", "runtime", 10),
    params:
        python=interpreter("workflow"),
    message:
        "Table of the data"
    shell:
        "{params.python} scripts/tables.py --results $(dirname {input.study:q}) --settings @{input.study:q}"
        " --only data 2> {log:q}"


rule train:
    input:
        reported("runs/{run}/training.json", run=trained),
        study="<results>/study.json",
        programs=TABLE_PROGRAMS,
    output:
        table_files("training"),
    log:
        "<logs>/train.log",
    conda:
        "../envs/uv.yaml"
    threads: ask("tables", "threads", 1)
    resources:
        mem_mb=ask("tables", "mem_mb", 1000),
        runtime=ask("tables", "runtime", 10),
    params:
        python=interpreter("workflow"),
    message:
        "Table of the training"
    shell:
        "{params.python} scripts/tables.py --results $(dirname {input.study:q}) --settings @{input.study:q}"
        " --only training 2> {log:q}"


rule tables:
    input:
        rules.data.output,
        rules.train.output,
        reported("subjects/{subject}/readiness.json", subject=evaluated),
        reported("subjects/{subject}/chat.json", subject=evaluated),
        reported("scores/{subject}/{benchmark}.json", subject=evaluated, benchmark=asked),
        study="<results>/study.json",
        programs=TABLE_PROGRAMS,
    output:
        table_files(*score_tables),
    log:
        "<logs>/tables.log",
    conda:
        "../envs/uv.yaml"
    threads: ask("tables", "threads", 1)
    resources:
        mem_mb=ask("tables", "mem_mb", 1000),
        runtime=ask("tables", "runtime", 10),
    params:
        python=interpreter("workflow"),
        names=score_tables,
    message:
        "Tables of inference, scores and comparisons"
    shell:
        "{params.python} scripts/tables.py --results $(dirname {input.study:q}) --settings @{input.study:q}"
        " --only {params.names} 2> {log:q}"


rule report:
    input:
        rules.plan.output,
        rules.tables.output,
        study="<results>/study.json",
        programs=[*TABLE_PROGRAMS, *REPORT_PROGRAMS],
    output:
        pages=collect("<results>/report/report.{language}.md", language=study["languages"]),
        html=report("<results>/report/report.html", category="Report"),
        figures=collect("<results>/figures/{figure}.svg", figure=FIGURES),
    log:
        "<logs>/report.log",
    conda:
        "../envs/uv.yaml"
    threads: ask("report", "threads", 1)
    resources:
        mem_mb=ask("report", "mem_mb", 1000),
        runtime=ask("report", "runtime", 10),
    params:
        python=interpreter("workflow"),
    message:
        "The report, in every language of the config, with figures"
    shell:
        "{params.python} scripts/report.py --results $(dirname {input.study:q}) --settings @{input.study:q} 2> {log:q}"
