# In:   datasets and benchmarks as they are stated in the config
# Out:  <results>/datasets/<dataset>/{train,validation}.jsonl and receipt.json
#       <results>/runs/<run>/{train,validation}.jsonl and receipt.json: what of it this run trains on
#       <results>/benchmarks/<benchmark>/manifest.json, data/ beside it
#       <results>/datasets/<dataset>/contamination.json: benchmark questions that the dialogues hold
#
# Rows are large: a receipt, with their digests, stands for them wherever they are an input.
# What subjects are asked from goes first (priority): it should be there when the first one is served. Then, with a card to
# spare, trainings (training_first). Then whatever uses weights, so that one subject is done before the next one's are made.


rule fetch_dataset:
    input:
        paths.environment.format(env="evalscope"),
    output:
        paths.dataset_source,
    log:
        "<logs>/fetch_dataset/{dataset}.log",
    priority: 3
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        **told("fetch_dataset", content=content("datasets", "dataset")),
    message:
        "Fetching dataset {wildcards.dataset}"
    shell:
        '"$SFTFLOW" evalscope fetch_dataset.py --dataset {wildcards.dataset} --settings {params.settings:q}'
        " --output {output:q} 2> {log:q}"


rule prepare_dataset:
    input:
        source=paths.dataset_source,
    output:
        train=paths.dataset_rows.format(dataset="{dataset}", side="train"),
        validation=paths.dataset_rows.format(dataset="{dataset}", side="validation"),
        receipt=paths.dataset_receipt,
    log:
        "<logs>/prepare_dataset/{dataset}.log",
    benchmark:
        "<logs>/prepare_dataset/{dataset}.tsv"
    priority: 3
    conda:
        "../envs/uv.yaml"
    threads: ask("prepare_dataset", "threads", 1)
    resources:
        mem_mb=memory("prepare_dataset", 2000),
        runtime=minutes("prepare_dataset", 30),
    params:
        **told("prepare_dataset"),
    message:
        "Preparing dataset {wildcards.dataset}: every row is kept, or dropped with a reason"
    shell:
        '"$SFTFLOW" evalscope prepare_dataset.py --dataset {wildcards.dataset} --settings {params.settings:q}'
        " --source {input.source:q} --train {output.train:q} --validation {output.validation:q}"
        " --receipt {output.receipt:q} 2> {log:q}"


rule fetch_benchmark:
    input:
        paths.environment.format(env="evalscope"),
    output:
        manifest=paths.benchmark,
        questions=directory(paths.questions),
    log:
        "<logs>/fetch_benchmark/{benchmark}.log",
    priority: 3
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        **told("fetch_benchmark", content=content("benchmarks", "benchmark")),
    message:
        "Fetching benchmark {wildcards.benchmark}"
    shell:
        '"$SFTFLOW" evalscope fetch_benchmark.py --benchmark {wildcards.benchmark}'
        " --settings {params.settings:q} --output {output.manifest:q} 2> {log:q}"


rule tokenize_run:
    input:
        unpack(words_of_run),
        environment=paths.environment.format(env="swift"),
    output:
        train=paths.run_rows.format(run="{run}", side="train"),
        validation=paths.run_rows.format(run="{run}", side="validation"),
        receipt=paths.run_receipt,
    log:
        "<logs>/tokenize_run/{run}.log",
    conda:
        "../envs/uv.yaml"
    threads: ask("tokenize_run", "threads", 4)
    resources:
        mem_mb=memory("tokenize_run", 2000),
        runtime=minutes("tokenize_run", 30),
    params:
        **told("tokenize_run"),
    message:
        "Counting tokens for {wildcards.run} with its own tokenizer"
    shell:
        '"$SFTFLOW" swift tokenize_run.py --settings {params.settings:q} --dataset-receipt {input.dataset:q}'
        " --tokenizer {input.tokenizer:q} --receipt {output.receipt:q} --workers {threads} 2> {log:q}"


rule find_contamination:
    input:
        dataset=paths.dataset_receipt,
        benchmarks=collect(paths.benchmark, benchmark=asked),
    output:
        paths.contamination,
    log:
        "<logs>/find_contamination/{dataset}.log",
    conda:
        "../envs/uv.yaml"
    threads: ask("find_contamination", "threads", 1)
    resources:
        mem_mb=memory("find_contamination", 2000),
        runtime=minutes("find_contamination", 60),
    params:
        **told("find_contamination"),
    message:
        "Looking for benchmark questions in dataset {wildcards.dataset}"
    shell:
        '"$SFTFLOW" evalscope contamination.py --dataset-receipt {input.dataset:q}'
        " --settings {params.settings:q} --benchmarks {input.benchmarks:q} --output {output:q} 2> {log:q}"
