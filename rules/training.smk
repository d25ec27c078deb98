# In:   <results>/runs/<run>/{train,validation}.jsonl and receipt.json; the base model
# Out:  <results>/runs/<run>/training.json, adapter.json, merged.json; adapter/, merged/ and checkpoints/ beside them
#
# The programs are no inputs here, nor in serving and evaluation: an edited script must not cost GPU hours. What was
# trained, served or asked is told apart by identity, which the programs check themselves.


rule train_run:
    input:
        train="<results>/runs/{run}/train.jsonl",
        validation="<results>/runs/{run}/validation.jsonl",
        receipt="<results>/runs/{run}/receipt.json",
        model=model_manifest,
        environment="<results>/environments/swift.json",
    output:
        training="<results>/runs/{run}/training.json",
        adapter="<results>/runs/{run}/adapter.json",
    log:
        "<logs>/train_run/{run}.log",
    benchmark:
        "<logs>/train_run/{run}.tsv"
    conda:
        "../envs/uv.yaml"
    threads: ask("train_run", "threads", 8)
    resources:
        gpu=run_gpus("train_run"),
        mem_mb=ask("train_run", "mem_mb", 64000),
        runtime=ask("train_run", "runtime", 1440),
    params:
        python=interpreter("swift"),
        settings=train_settings,
    message:
        "Training {wildcards.run}"
    shell:
        "{params.python} scripts/train.py --settings {params.settings:q} --train {input.train:q}"
        " --validation {input.validation:q} --receipt {input.receipt:q} --manifest {input.model:q}"
        " --weights $(dirname {input.model:q})/weights --output $(dirname {output.training:q}) 2> {log:q}"


rule merge_run:
    input:
        adapter="<results>/runs/{run}/adapter.json",
        model=model_manifest,
        environment="<results>/environments/swift.json",
    output:
        "<results>/runs/{run}/merged.json",
    log:
        "<logs>/merge_run/{run}.log",
    benchmark:
        "<logs>/merge_run/{run}.tsv"
    conda:
        "../envs/uv.yaml"
    threads: ask("merge_run", "threads", 4)
    resources:
        gpu=run_gpus("merge_run"),
        mem_mb=ask("merge_run", "mem_mb", 64000),
        runtime=ask("merge_run", "runtime", 60),
    params:
        python=interpreter("swift"),
        settings=merge_settings,
    message:
        "Merging the adapter of {wildcards.run}, and checking that nothing was lost"
    shell:
        "{params.python} scripts/merge.py --settings {params.settings:q} --adapter {input.adapter:q}"
        " --manifest {input.model:q} --weights $(dirname {input.model:q})/weights"
        " --output $(dirname {output:q}) 2> {log:q}"
