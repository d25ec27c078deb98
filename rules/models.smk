# In:   base models as they are stated in the config
# Out:  <results>/models/<model>/manifest.json, weights/ beside it, in a form that needs no code from a hub


rule fetch_model:
    input:
        "<results>/environments/evalscope.json",
    output:
        "<results>/models/{model}/source.json",
    log:
        "<logs>/fetch_model/{model}.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        python=interpreter("evalscope"),
        settings=model_source,
        content=model_content,
    message:
        "Fetching model {wildcards.model}"
    shell:
        "{params.python} scripts/fetch_model.py --model {wildcards.model} --settings {params.settings:q}"
        " --folder $(dirname {output:q})/source --output {output:q} 2> {log:q}"


rule native_model:
    input:
        source="<results>/models/{model}/source.json",
        environment="<results>/environments/swift.json",
    output:
        "<results>/models/{model}/manifest.json",
    log:
        "<logs>/native_model/{model}.log",
    benchmark:
        "<logs>/native_model/{model}.tsv"
    conda:
        "../envs/uv.yaml"
    threads: ask("native_model", "threads", 1)
    resources:
        mem_mb=ask("native_model", "mem_mb", 8000),
        runtime=ask("native_model", "runtime", 60),
    params:
        python=interpreter("swift"),
        settings=native_settings,
    message:
        "Bringing model {wildcards.model} into native form"
    shell:
        "{params.python} scripts/native_model.py --model {wildcards.model} --settings {params.settings:q}"
        " --source {input.source:q} --weights $(dirname {output:q})/weights --manifest {output:q} 2> {log:q}"
