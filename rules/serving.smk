# In:   the manifests that say which weights a subject is; evalscope's environment, whose openai library asks
# Out:  <results>/subjects/<subject>/readiness.json: these weights, on this backend, came up and answered
#       <results>/subjects/<subject>/chat.json: answers to the config's fixed prompts
#
# One session for each subject: what later jobs of this run ask it is asked ahead here, and kept where they find it.
# Benchmarks and dialogues are no inputs for that: one that can't be fetched must not keep a subject from being served,
# and one that is added must not serve it again. What is not there when it is their turn is asked by its own job.


rule serve_subject:
    input:
        unpack(both_forms),
        evalscope=paths.environment.format(env="evalscope"),
        judged=judged_first,
    output:
        readiness=paths.readiness,
        chat=paths.chat,
    log:
        "<logs>/serve_subject/{subject}.log",
        server="<logs>/serve_subject/{subject}.server.log",
    benchmark:
        "<logs>/serve_subject/{subject}.tsv"
    priority: 1
    conda:
        "../envs/uv.yaml"
    threads: ask("serve_subject", "threads", 4)
    resources:
        **on_gpus(subject_gpus("serve_subject")),
        mem_mb=memory("serve_subject", 32000, model_of_subject),
        runtime=minutes("serve_subject", 1440),
    params:
        **told("serve_subject"),
        weights=weights_flags,
        other=other_form_flags,
        ahead=settings_file("ahead", "{subject}"),  # what later jobs of this run ask the subject
    message:
        "Serving {wildcards.subject} alone: readiness, speed, the fixed prompts, then what later jobs ask it"
    shell:
        '"$SFTFLOW" evalscope serve.py --settings {params.settings:q} {params.weights} {params.other}'
        " --threads {threads} --server-log {log.server:q} --readiness {output.readiness:q}"
        " --chat {output.chat:q} --ahead {params.ahead:q} --minutes {resources.runtime} 2> {log[0]:q}"
