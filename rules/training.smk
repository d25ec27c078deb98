# In:   <results>/runs/<run>/receipt.json, the rows beside it; the base model
# Out:  <results>/runs/<run>/training.json, adapter.json, merged.json; adapter/ and merged/ beside them
#       <results>/runs/<run>/dropped.json: with `keep: adapter`, what of its weights was not needed any more
#       <results>/runs/<run>/checkpoints.json: which checkpoints are kept, where the config asks for some
#       <results>/runs/<run>/rungs/<part>.json, <results>/sweeps/<sweep>/halving-<part>.json: of a sweep with halving
#       <results>/runs/<run>/steps/<step>/adapter.json: one that is a subject; adapter/ beside it
#
# The programs are no inputs here, nor in serving and evaluation: an edited script must not cost GPU hours. What was
# trained, served or asked is told apart by identity, which the programs check themselves.


rule train_run:
    input:
        unpack(of_run),
        receipt=paths.run_receipt,
        environment=paths.environment.format(env="swift"),
        decision=decided_first,
    output:
        training=paths.training,
        adapter=paths.adapter,
        weights=directory(paths.adapter_weights),
    log:
        "<logs>/train_run/{run}.log",
    benchmark:
        "<logs>/train_run/{run}.tsv"
    priority: training_first
    conda:
        "../envs/uv.yaml"
    threads: ask("train_run", "threads", 8)
    resources:
        **on_gpus(run_gpus("train_run")),
        mem_mb=memory("train_run", 64000, model_of_run),
        runtime=minutes("train_run", 1440),
    params:
        **told("train_run"),
    message:
        "Training {wildcards.run}"
    shell:
        '"$SFTFLOW" swift train.py --settings {params.settings:q} --receipt {input.receipt:q}'
        " --manifest {input.model:q} --output $(dirname {output.training:q}) 2> {log:q}"


# The same training, stopped at 1/part of its steps; the next rung, or train_run, goes on from there. Of a run that was left
# out before, nothing but that.
rule train_rung:
    input:
        unpack(of_run),
        receipt=paths.run_receipt,
        environment=paths.environment.format(env="swift"),
        after=decision_before,
    output:
        paths.rung,
    log:
        "<logs>/train_rung/{run}/{part}.log",
    wildcard_constraints:
        part=r"\d+",
    conda:
        "../envs/uv.yaml"
    threads: ask("train_run", "threads", 8)
    resources:
        **on_gpus(run_gpus("train_run")),
        mem_mb=memory("train_run", 64000, model_of_run),
        runtime=minutes("train_run", 1440),
    params:
        **told("train_run"),
        after=after_flag,
    message:
        "Training {wildcards.run} up to 1/{wildcards.part} of its steps"
    shell:
        '"$SFTFLOW" swift train.py --settings {params.settings:q} --receipt {input.receipt:q}'
        " --manifest {input.model:q} --output $(dirname $(dirname {output:q}))"
        " --part {wildcards.part} --rung {output:q} {params.after} 2> {log:q}"


rule halve_sweep:
    input:
        rungs=rungs_of,
        after=decision_before,
    output:
        paths.halving,
    log:
        "<logs>/halve_sweep/{sweep}/{part}.log",
    wildcard_constraints:
        part=r"\d+",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=500,
    params:
        **told("halve_sweep"),
        after=after_flag,
    message:
        "Deciding which points of {wildcards.sweep} go on"
    shell:
        '"$SFTFLOW" workflow halve.py --settings {params.settings:q} --output {output:q}'
        " --results $(dirname $(dirname $(dirname {output:q}))) {params.after} 2> {log:q}"


# Of a training that is over, whatever is still there: nothing is trained for a checkpoint.
rule keep_checkpoints:
    input:
        adapter=paths.adapter,
        adapter_weights=ancient(paths.adapter_weights),
        training=paths.training,
    output:
        paths.checkpoints,
    log:
        "<logs>/keep_checkpoints/{run}.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        **told("keep_checkpoints"),
    message:
        "Listing the checkpoints of {wildcards.run} that are kept"
    shell:
        '"$SFTFLOW" workflow keep_checkpoints.py --settings {params.settings:q} --adapter {input.adapter:q}'
        " --training {input.training:q} --output {output:q} 2> {log:q}"


rule take_checkpoint:
    input:
        paths.checkpoints,
    output:
        adapter=paths.checkpoint,
        weights=directory(paths.checkpoint_weights),
    log:
        "<logs>/take_checkpoint/{run}/{step}.log",
    wildcard_constraints:
        step=r"\d+",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    message:
        "Taking step {wildcards.step} of {wildcards.run} as a subject"
    shell:
        '"$SFTFLOW" workflow take_checkpoint.py --checkpoints {input:q} --step {wildcards.step}'
        " --output {output.adapter:q} 2> {log:q}"


rule merge_run:
    input:
        unpack(lambda wildcards: base_model(model_of_run(wildcards))),
        adapter=paths.adapter,
        adapter_weights=ancient(paths.adapter_weights),
        environment=paths.environment.format(env="swift"),
    output:
        paths.merged,
    log:
        "<logs>/merge_run/{run}.log",
    benchmark:
        "<logs>/merge_run/{run}.tsv"
    priority: 1
    conda:
        "../envs/uv.yaml"
    threads: ask("merge_run", "threads", 4)
    resources:
        **on_gpus(run_gpus("merge_run")),
        mem_mb=memory("merge_run", 64000, model_of_run),
        runtime=minutes("merge_run", 60),
    params:
        **told("merge_run"),
    message:
        "Merging the adapter of {wildcards.run}, and checking that nothing was lost"
    shell:
        '"$SFTFLOW" swift merge.py --settings {params.settings:q} --adapter {input.adapter:q}'
        " --manifest {input.model:q} --output $(dirname {output:q}) 2> {log:q}"


# Of weights that were deleted. What they were needed for stands: merged.json stays, and nothing has them as an input.
rule restore_merged:
    input:
        unpack(lambda wildcards: base_model(model_of_run(wildcards))),
        merged=ancient(paths.merged),
        adapter=ancient(paths.adapter),
        adapter_weights=ancient(paths.adapter_weights),
        environment=paths.environment.format(env="swift"),
    output:
        directory(paths.merged_weights),
    log:
        "<logs>/restore_merged/{run}.log",
    conda:
        "../envs/uv.yaml"
    threads: ask("merge_run", "threads", 4)
    resources:
        **on_gpus(run_gpus("merge_run")),
        mem_mb=memory("merge_run", 64000, model_of_run),
        runtime=minutes("merge_run", 60),
    params:
        settings=told("merge_run")["settings"],
    message:
        "Merging {wildcards.run} again: its merged weights are gone"
    shell:
        '"$SFTFLOW" swift merge.py --again --settings {params.settings:q} --adapter {input.adapter:q}'
        " --manifest {input.model:q} --output $(dirname {output:q}) 2> {log:q}"


rule drop_weights:
    input:
        needed_weights,
    output:
        paths.dropped,
    log:
        "<logs>/drop_weights/{run}.log",
    priority: 4
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=100,
    message:
        "Nothing needs more than the adapter of {wildcards.run} any more: dropping the rest"
    shell:
        '"$SFTFLOW" workflow drop_weights.py --run $(dirname {output:q}) --output {output:q} 2> {log:q}'
