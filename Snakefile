# sftflow: what did this fine-tuning change?
#
# Data in, tables out: dataset → adapter → merged weights → readiness → answers → scores → tables.

from snakemake.utils import min_version

min_version("9.27")


# The demo is the default. A user's own --configfile, or a module's config, takes its place: they are never merged.
if not workflow.configfiles:

    configfile: str(workflow.current_basedir.join("config/config.yaml"))


# The first page of what `snakemake --report` makes.
report: "rules/captions/workflow.rst"


include: "rules/common.smk"
include: "rules/reporting.smk"


# With --config stage=report, tables are rebuilt from what lies in results/, and nothing can be trained or asked.
if study["stage"] == "all":

    include: "rules/environments.smk"
    include: "rules/data.smk"
    include: "rules/models.smk"
    include: "rules/training.smk"
    include: "rules/serving.smk"
    include: "rules/evaluation.smk"
    include: "rules/dialogue.smk"


rule all:
    default_target: True
    input:
        rules.plan.output,  # what it costs and what it can show, before any GPU hour
        rules.data.output,  # what went in
        whole_study(
            rules.train.output,  # how the training went
            rules.tables.output,  # what was measured, and what the fine-tuning changed
            rules.report.output,  # all of it, as a report in Chinese and English
            rules.cards.output,  # and what a hub shows beside the weights
            records(),  # and every record below, so that one that was deleted is noticed
        ),
    log:
        "<logs>/all.log",
    localrule: True
    conda:
        "envs/uv.yaml"
    threads: 1
    resources:
        mem_mb=100,
    message:
        "All of it: tables and report"


# A job that has a subject's server up asks ahead what others of this run will ask. A closed terminal,
# Ctrl-C and TERM end the jobs, too.
onstart:
    handover.tell_plan(file for job in workflow.dag.needrun_jobs() for file in job.output)
    if any(job.rule.name == "serve_subject" for job in workflow.dag.needrun_jobs()):
        backend.keep(RESULTS, auto)
    process.end_jobs_when_told(be_short)
    # Its executor waits in silence for a node that is drained.
    if workflow.is_main_process and workflow.executor_plugin.cli_prefix == "slurm":
        slurm.watch(logger.warning, float(default_resource("watch_seconds") or 60))


# Records of how outputs were made travel with the results folder. The last lines are the result, or why there is none.
onsuccess:
    provenance.keep(RESULTS)
    for sentence in halving.news(RESULTS, study):
        logger.info(sentence)
    if "report" in {job.rule.name for job in workflow.dag.jobs}:
        logger.info(endings.result(RESULTS))


onerror:
    provenance.keep(RESULTS)
    if workflow.scheduler.failed and not ended_on_request:
        logger.error(endings.failures(workflow.scheduler.failed, why_ended))


if ALONE:
    wrong = unknown_targets(
        asked_for(),
        [rule.name for rule in workflow.rules],
        [str(file) for rule in workflow.rules for file in rule.output],
        wildcard_values,
    )
    if message := "\n".join(wrong):
        raise WorkflowError(message)
