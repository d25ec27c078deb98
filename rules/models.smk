# In:   base models as they are stated in the config
# Out:  <results>/models/<model>/manifest.json, weights/ beside it, in a form that needs no code from a hub
#       <results>/models/<model>/tokenizer.json: all of that form but the weights, in tokenizer/ beside it


rule fetch_model:
    input:
        paths.environment.format(env="evalscope"),
    output:
        paths.model_source,
    log:
        "<logs>/fetch_model/{model}.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        **told("fetch_model", content=content("models", "model")),
    message:
        "Fetching model {wildcards.model}"
    shell:
        '"$SFTFLOW" evalscope fetch_model.py --model {wildcards.model} --settings {params.settings:q}'
        " --output {output:q} 2> {log:q}"


# Made before the weights are: rows are tokenized, and can be trained on, as soon as these are there.
rule native_tokenizer:
    input:
        source=paths.model_source,
        environment=paths.environment.format(env="swift"),
    output:
        record=paths.model_tokenizer,
        files=directory(paths.tokenizer),
    log:
        "<logs>/native_tokenizer/{model}.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        **told("native_tokenizer"),
    message:
        "Bringing the tokenizer of {wildcards.model} into native form"
    shell:
        '"$SFTFLOW" swift native_tokenizer.py --model {wildcards.model} --settings {params.settings:q}'
        " --source {input.source:q} --output {output.record:q} 2> {log:q}"


rule native_model:
    input:
        source=paths.model_source,
        tokenizer=paths.model_tokenizer,
        tokenizer_files=ancient(paths.tokenizer),
        environment=paths.environment.format(env="swift"),
    output:
        manifest=paths.model,
        weights=directory(paths.weights),
    log:
        "<logs>/native_model/{model}.log",
    benchmark:
        "<logs>/native_model/{model}.tsv"
    conda:
        "../envs/uv.yaml"
    threads: ask("native_model", "threads", 1)
    resources:
        mem_mb=memory("native_model", 8000),
        runtime=minutes("native_model", 60),
    params:
        **told("native_model"),
    message:
        "Bringing model {wildcards.model} into native form"
    shell:
        '"$SFTFLOW" swift native_model.py --model {wildcards.model} --settings {params.settings:q}'
        " --source {input.source:q} --tokenizer {input.tokenizer:q} --weights {output.weights:q}"
        " --manifest {output.manifest:q} 2> {log:q}"
