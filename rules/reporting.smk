# In:   what lies in <results>: receipts, training records, readiness, chats, scores
# Out:  <results>/tables/*.md, *.csv and *.tex, <results>/figures/*, <results>/report/* (answers.html: the answers behind the scores)
#
# With stage=report no other rules exist, and the inputs are what is there, not what could be made.


rule plan:
    input:
        reported(paths.run_receipt, run=list(trainings)),
        reported(paths.model, model=base_models),
        reported(paths.benchmark, benchmark=asked),
    output:
        table_files("plan"),
        paths.plan,
    log:
        "<logs>/plan.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: ask("plan", "threads", 1)
    resources:
        mem_mb=memory("plan", 1000),
        runtime=minutes("plan", 10),
    params:
        **shown("plan.py"),
    message:
        "Planning: what the study will cost, and what it will be able to show"
    shell:
        '"$SFTFLOW" workflow plan.py --settings {params.settings:q} 2> {log:q}'


rule data:
    input:
        reported(paths.dataset_receipt, dataset=used_datasets),
        reported(paths.contamination, dataset=used_datasets),
        reported(paths.run_receipt, run=trained),
        reported(paths.benchmark, benchmark=asked),
    output:
        table_files("data"),
    log:
        "<logs>/data.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: ask("tables", "threads", 1)
    resources:
        mem_mb=memory("tables", 1000),
        runtime=minutes("tables", 10),
    params:
        **shown("tables.py"),
    message:
        "Table of the data"
    shell:
        '"$SFTFLOW" workflow tables.py --settings {params.settings:q} --only data 2> {log:q}'


rule train:
    input:
        reported(paths.training, run=trained),
        known(decisions),
    output:
        table_files("training"),
    log:
        "<logs>/train.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: ask("tables", "threads", 1)
    resources:
        mem_mb=memory("tables", 1000),
        runtime=minutes("tables", 10),
    params:
        **shown("tables.py"),
    message:
        "Table of the training"
    shell:
        '"$SFTFLOW" workflow tables.py --settings {params.settings:q} --only training 2> {log:q}'


rule tables:
    input:
        rules.data.output,
        rules.train.output,
        known(decisions),
        reported(paths.readiness, subject=evaluated),
        reported(paths.chat, subject=evaluated),
        reported(paths.score, subject=evaluated, benchmark=asked),
        reported(paths.likelihood, subject=measurable),
        reported(paths.curve, run=stepwise),
        reported(paths.behaviour, subject=conversing),
        reported(paths.judgement, judge=judges, pair=judged),
        reported(paths.crisis, judge=judges, subject=in_crisis),
        ratings(),
    output:
        table_files(*remaining_tables),
    log:
        "<logs>/tables.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: ask("tables", "threads", 2)
    resources:
        mem_mb=memory("tables", 1000),
        runtime=minutes("tables", 10),
    params:
        **shown("tables.py"),
        names=remaining_tables,
    message:
        "Tables of inference, scores and comparisons"
    shell:
        '"$SFTFLOW" workflow tables.py --settings {params.settings:q} --only {params.names} --threads {threads} 2> {log:q}'


rule report:
    input:
        rules.plan.output,
        rules.tables.output,
    output:
        pages=collect(paths.page, language=study["languages"]),
        html=kept(paths.html, "report", "Report", page="Report"),
        answers=kept(paths.answers, "answers", "Report", page="Answers"),
        summary=paths.summary,
        record=paths.record,
        figures=pictures(),
    log:
        "<logs>/report.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: ask("report", "threads", 2)
    resources:
        mem_mb=memory("report", 1000),
        runtime=minutes("report", 10),
    params:
        **shown("report.py"),
        **told_besides(),
    message:
        "The report, in every language of the config, with figures"
    shell:
        '"$SFTFLOW" workflow report.py --settings {params.settings:q} --threads {threads} 2> {log:q}'


rule cards:
    input:
        rules.tables.output,
    output:
        cards(),
    log:
        "<logs>/cards.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: ask("report", "threads", 1)
    resources:
        mem_mb=ask("report", "mem_mb", 1000),
        runtime=ask("report", "runtime", 10),
    params:
        **shown("cards.py"),
    message:
        "Model cards of the runs"
    shell:
        '"$SFTFLOW" workflow cards.py --settings {params.settings:q} 2> {log:q}'


rule verify:
    input:
        [],
    log:
        "<logs>/verify.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=500,
    params:
        results=RESULTS,
    message:
        "Reading everything in {params.results} again, and holding it against its digests"
    shell:
        '"$SFTFLOW" workflow verify.py --results {params.results:q} 2> {log:q}'


rule usage:
    input:
        [],
    log:
        "<logs>/usage.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=100,
    params:
        results=RESULTS,
    message:
        "What {params.results} holds, and what can go"
    shell:
        '"$SFTFLOW" workflow usage.py --results {params.results:q} 2> {log:q}'
