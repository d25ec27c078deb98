# In:   the manifests that say which weights a subject is; evalscope's environment, whose openai library asks
# Out:  <results>/subjects/<subject>/readiness.json: these weights, on this backend, came up and answered
#       <results>/subjects/<subject>/chat.json: answers to the config's fixed prompts


rule serve_subject:
    input:
        unpack(both_forms),
        evalscope=paths.environment.format(env="evalscope"),
    output:
        readiness=paths.readiness,
        chat=paths.chat,
    log:
        "<logs>/serve_subject/{subject}.log",
        server="<logs>/serve_subject/{subject}.server.log",
    benchmark:
        "<logs>/serve_subject/{subject}.tsv"
    conda:
        "../envs/uv.yaml"
    threads: ask("serve_subject", "threads", 4)
    resources:
        gpu=subject_gpus("serve_subject"),
        mem_mb=ask("serve_subject", "mem_mb", 32000),
        runtime=ask("serve_subject", "runtime", 60),
    params:
        **told("serve_subject"),
        weights=weights_flags,
        other=other_form_flags,
    message:
        "Serving {wildcards.subject} alone: readiness, speed, and the fixed prompts"
    shell:
        '"$SFTFLOW" evalscope serve.py --settings {params.settings:q} {params.weights} {params.other}'
        " --threads {threads} --server-log {log.server:q} --readiness {output.readiness:q}"
        " --chat {output.chat:q} 2> {log[0]:q}"
