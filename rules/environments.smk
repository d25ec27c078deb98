# In:   envs/<env>/uv.lock, by its digest
# Out:  <results>/environments/<env>.json, when the environment beside the lock is in step with it


rule sync_environment:
    output:
        paths.environment,
    log:
        "<logs>/sync_environment/{env}.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        **told("sync_environment", content=lock),
    message:
        "Syncing the environment {wildcards.env} to its lock"
    shell:
        '"$SFTFLOW" workflow environment.py --env {wildcards.env} --settings {params.settings:q}'
        " --output {output:q} 2> {log:q}"
