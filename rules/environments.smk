# In:   envs/<env>/uv.lock
# Out:  <results>/environments/<env>.json, when the environment beside the lock is in step with it


rule sync_environment:
    input:
        "envs/{env}/uv.lock",
    output:
        "<results>/environments/{env}.json",
    log:
        "<logs>/sync_environment/{env}.log",
    localrule: True
    conda:
        "../envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        python=interpreter("workflow"),
        software=study["software"],
    message:
        "Syncing the environment {wildcards.env} to its lock"
    shell:
        "{params.python} scripts/environment.py --env {wildcards.env} --project envs/{wildcards.env}"
        " --software {params.software} --output {output:q} 2> {log:q}"
