# In:   datasets and benchmarks as they are stated in the config
# Out:  <results>/datasets/<dataset>/{train,validation}.jsonl and receipt.json
#       <results>/runs/<run>/{train,validation}.jsonl and receipt.json: what of it this run trains on
#       <results>/benchmarks/<benchmark>/manifest.json, data/ beside it
#       <results>/datasets/<dataset>/contamination.json: benchmark questions that the dialogues hold


rule fetch_dataset:
    input:
        "<results>/environments/evalscope.json",
    output:
        "<results>/datasets/{dataset}/source.json",
    log:
        "<logs>/fetch_dataset/{dataset}.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        python=interpreter("evalscope"),
        settings=dataset_source,
        content=dataset_content,
    message:
        "Fetching dataset {wildcards.dataset}"
    shell:
        "{params.python} scripts/fetch_dataset.py --dataset {wildcards.dataset} --settings {params.settings:q}"
        " --folder $(dirname {output:q})/source --output {output:q} 2> {log:q}"


rule prepare_dataset:
    input:
        source="<results>/datasets/{dataset}/source.json",
    output:
        train="<results>/datasets/{dataset}/train.jsonl",
        validation="<results>/datasets/{dataset}/validation.jsonl",
        receipt="<results>/datasets/{dataset}/receipt.json",
    log:
        "<logs>/prepare_dataset/{dataset}.log",
    benchmark:
        "<logs>/prepare_dataset/{dataset}.tsv"
    conda:
        "../envs/uv.yaml"
    threads: ask("prepare_dataset", "threads", 1)
    resources:
        mem_mb=ask("prepare_dataset", "mem_mb", 2000),
        runtime=ask("prepare_dataset", "runtime", 30),
    params:
        python=interpreter("evalscope"),
        settings=prepare_settings,
    message:
        "Preparing dataset {wildcards.dataset}: every row is kept, or dropped with a reason"
    shell:
        "{params.python} scripts/prepare_dataset.py --dataset {wildcards.dataset} --settings {params.settings:q}"
        " --source {input.source:q} --train {output.train:q} --validation {output.validation:q}"
        " --receipt {output.receipt:q} 2> {log:q}"


rule fetch_benchmark:
    input:
        "<results>/environments/evalscope.json",
    output:
        "<results>/benchmarks/{benchmark}/manifest.json",
    log:
        "<logs>/fetch_benchmark/{benchmark}.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        python=interpreter("evalscope"),
        settings=benchmark_source,
        content=benchmark_content,
    message:
        "Fetching benchmark {wildcards.benchmark}"
    shell:
        "{params.python} scripts/fetch_benchmark.py --benchmark {wildcards.benchmark} --settings {params.settings:q}"
        " --folder $(dirname {output:q}) --output {output:q} 2> {log:q}"


rule tokenize_run:
    input:
        train=dataset_file("train.jsonl"),
        validation=dataset_file("validation.jsonl"),
        receipt=dataset_file("receipt.json"),
        model=model_manifest,
        environment="<results>/environments/swift.json",
    output:
        train="<results>/runs/{run}/train.jsonl",
        validation="<results>/runs/{run}/validation.jsonl",
        receipt="<results>/runs/{run}/receipt.json",
    log:
        "<logs>/tokenize_run/{run}.log",
    conda:
        "../envs/uv.yaml"
    threads: ask("tokenize_run", "threads", 1)
    resources:
        mem_mb=ask("tokenize_run", "mem_mb", 2000),
        runtime=ask("tokenize_run", "runtime", 30),
    params:
        python=interpreter("swift"),
        settings=tokenize_settings,
    message:
        "Counting tokens for {wildcards.run} with its own tokenizer"
    shell:
        "{params.python} scripts/tokenize_run.py --settings {params.settings:q} --train {input.train:q}"
        " --validation {input.validation:q} --dataset-receipt {input.receipt:q}"
        " --weights $(dirname {input.model:q})/weights --output $(dirname {output.receipt:q})"
        " --workers {threads} 2> {log:q}"


rule find_contamination:
    input:
        train="<results>/datasets/{dataset}/train.jsonl",
        benchmarks=collect("<results>/benchmarks/{benchmark}/manifest.json", benchmark=asked),
    output:
        "<results>/datasets/{dataset}/contamination.json",
    log:
        "<logs>/find_contamination/{dataset}.log",
    conda:
        "../envs/uv.yaml"
    threads: ask("find_contamination", "threads", 1)
    resources:
        mem_mb=ask("find_contamination", "mem_mb", 2000),
        runtime=ask("find_contamination", "runtime", 60),
    params:
        python=interpreter("evalscope"),
        settings=as_json(study["contamination"]),
    message:
        "Looking for benchmark questions in dataset {wildcards.dataset}"
    shell:
        "{params.python} scripts/contamination.py --dataset {wildcards.dataset} --settings {params.settings:q}"
        " --dialogues {input.train:q} --benchmarks {input.benchmarks:q} --output {output:q} 2> {log:q}"
