"""The Chinese of tables and reports (sentences stand in templates/report.zh.md.j2)."""

import re
from collections.abc import Callable
from functools import partial

import pandas as pd
from sftflow.reporting.flags import KINDS, Flag, Message
from sftflow.reporting.meanings import MEANINGS

# What the tables say, in Chinese. Names, numbers and notes of the user stay as they are.
CHINESE = {
    "Accuracy": "准确率 [区间]",
    "Accuracy (%)": "准确率 [区间]",
    "Backend": "后端",
    "Base model": "基座模型",
    "Baseline": "基线",
    "Baseline score": "基线得分",
    "Benchmark": "数据集",
    "Candidate": "候选",
    "Candidate score": "候选得分",
    "Carry loss": "计入 Loss 的 token（%）",
    "Chance": "随机水平",
    "Chosen": "选定",
    "Characters (mean, max)": "字符数（均值、最大）",
    "Clean": "未污染子集",
    "Dataset": "训练数据",
    "Detectable": "可检出差异",
    "Dialogues/s": "样本/秒",
    "Difference": "差异 [区间]",
    "Difference, clean": "差异（未污染子集）",
    "Digest": "校验值",
    "Dropped": "丢弃",
    "Environment": "环境",
    "Epochs": "轮数",
    "Final loss": "最终 Loss",
    "First loss": "初始 Loss",
    "Flags": "警示",
    "Fixed / broken": "改对 / 改错",
    "FLOP utilisation": "FLOP 利用率（%）",
    "Form": "形式",
    "GPU use": "GPU 利用率",
    "Empty": "空回答（%）",
    "If stated": "明示部分的准确率",
    "Kept": "保留",
    "License": "许可证",
    "Macro difference": "宏平均差异",
    "Macro mean": "宏平均",
    "Macro-F1": "F1分数",
    "Max": "最大",
    "Mean": "均值",
    "Misread": "误读（%）",
    "Micro difference": "微平均差异",
    "Micro mean": "微平均",
    "Model": "模型",
    "Note": "备注",
    "Number type": "数值类型",
    "Package": "软件包",
    "Padded": "填充（%）",
    "Parameters": "参数量",
    "Peak memory": "显存/内存峰值",
    "Prompt": "提示",
    "Published": "公开成绩",
    "Read": "读取",
    "Reason": "原因",
    "Receipt": "明细",
    "Record": "记录",
    "Revision": "版本",
    "Rows": "行数",
    "Run": "实验",
    "Score": "来源",
    "SE": "标准误",
    "Seed": "随机种子",
    "Seeds": "种子数",
    "SD between seeds": "种子间标准差",
    "Seeds better / worse": "更好 / 更差的种子数",
    "Setting": "参数",
    "Source": "来源",
    "Steps": "总步数",
    "Steps per epoch": "每轮步数",
    "Subject": "模型",
    "Subset": "子集",
    "Suite": "评测集",
    "Time": "训练时间",
    "Token accuracy": "token 准确率",
    "Tokens/s": "token/秒",
    "Train": "训练",
    "Truncated": "截断（%）",
    "Turns (mean, max)": "轮次（均值、最大）",
    "Unstated": "未明示（%）",
    "Stated, right": "明示且正确",
    "Stated, wrong": "明示但错误",
    "Unstated, right": "未明示但判对",
    "Unstated, wrong": "未明示且判错",
    "Strict": "严格准确率 [区间]",
    "Validation": "验证",
    "Validation loss": "验证 Loss",
    "Validation loss before": "训练前验证 Loss",
    "Verdict": "结论",
    "n": "样本数",
    "p (Holm)": "p（Holm 校正）",
    "Covered": "覆盖（%）",
    "Dialogue": "对话",
    "Overlapping": "重叠题数",
    "Passage": "重合片段",
    "Question": "题目",
    "Share": "占比（%）",
    "Kind": "类型",
    "Stem, whole, options": "题干、整题、选项",
    "Uncheckable": "无法判断",
    "Limit": "limit",
    "Lowest to highest": "最低至最高",
    "SE of one score (sampling)": "单次得分的标准误（抽样）",
    "Ready": "就绪用时",
    "Weights loaded in": "权重加载用时",
    "First answer": "首次回答用时",
    "Ready as adapter": "LoRA 适配器形式就绪用时",
    "Ready as merged": "合并权重形式就绪用时",
    "First token": "首 token 延迟",
    "Tokens/s, one stream": "token/秒（单路）",
    "Tokens/s, together": "token/秒（并发）",
    "Process memory": "内存占用",
    "GPU memory": "显存占用",
    "First lines": "首批行号",
    "Knowledge": "知识",
    "Held-out dialogues": "留出对话",
    "Preference": "对话偏好",
    "Forgetting": "遗忘",
    "Safety": "安全",
    "Behaviour": "回答行为",
    "Text": "文本",
    "Tokens": "token 数",
    "Loss before": "训练前 Loss",
    "Loss after": "训练后 Loss",
    "Perplexity": "困惑度",
    "All runs": "全部实验",
    "Answer": "回答",
    "Answers to": "回答对象",
    "Any fault": "任一异常（%）",
    "Cut off": "截断（%）",
    "Loops": "循环重复（%）",
    "Markers": "模板标记（%）",
    "Other language": "换了语言（%）",
    "Refusals": "拒答（%）",
    "Characters": "字符数",
    "Repeated 4-grams": "重复 4-gram（%）",
    "Distinct-1": "Distinct-1（%）",
    "Distinct-2": "Distinct-2（%）",
    "What": "项目",
    "Of": "对象",
    "Change": "变化 [区间]",
    "Margin": "界限",
    "Judge": "评判者",
    "Win, tie, loss": "胜、平、负",
    "Win rate": "胜率 [区间]",
    "Win rate at equal length": "等长时的胜率 [区间]",
    "Alike in both orders": "两种顺序结论一致（%）",
    "First place wins": "先出现者获胜（%）",
    "Unreadable": "无法读取",
    "Point": "要点",
    "Holds": "成立（%）",
    "Ratings": "人工评分",
    "Raters": "评分者",
    "Agree": "一致（%）",
    "Step": "步数",
    "Held-out loss": "留出对话 Loss",
    "Above the lowest": "高出最低点 [区间]",
    "Lowest at step": "最低点步数",
    "Loss there": "最低 Loss",
    "Loss difference": "Loss 差异 [区间]",
    "Tokens, max": "最大 token 数",
    "Tokens, mean": "平均 token 数",
    "Served step": "部署步数",
    "Served loss": "部署权重的 Loss",
    "Adapter on disk": "适配器大小",
    "Commit": "工作流版本",
    "Date": "日期",
    "Dialogues a step": "每步对话数",
    "Earlier": "此前",
    "Meaning": "含义",
    "Memory planned": "预计显存/内存",
    "Memory taken": "实际显存/内存",
    "Merged on disk": "合并权重大小",
    "News": "情况",
    "Now": "现在",
    "Scores": "得分数",
    "Serving, GPU": "推理显存",
    "Serving, process": "推理内存",
    "Time planned": "预计时间",
    "Time taken": "实际时间",
    "Trained parameters": "训练的参数量",
    "Training memory": "训练显存/内存",
}
# What flags.py says, by the same kinds and values, and what a kind is called in a table.
FLAGS = {
    "destroyed": Message(
        "模型已毁",
        "{what}从 {before} 升到 {after}；对词表的均匀猜测为 {uniform}",
        "这些权重不可使用：请把 learning_rate 降到十分之一，或提高 warmup_ratio",
    ),
    "diverged": Message(
        "训练发散",
        "{what}从 {before} 升到 {after}，超出其噪声 {noise}",
        "请降低 learning_rate，或检查数据中有问题的行",
    ),
    "overfitting": Message(
        "过拟合",
        "验证 Loss 从 {before} 升到 {after}，而训练 Loss 降到 {final}",
        "请减小 num_train_epochs、learning_rate 或 lora_rank，或增加对话",
    ),
    "overfitted": Message(
        "过拟合（按留出对话）",
        "留出对话的每 token Loss 在第 {step} 步最低（{before}），"
        "到所部署的第 {last} 步为 {after}：{rise}",
        "按留出 Loss，第 {step} 步的检查点更好；"
        "请减小 num_train_epochs 或 learning_rate，或增加对话",
    ),
    "flat": Message(
        "训练无变化",
        "{what}的变化没有超出其噪声 {noise}：开始时 {before}，结束时 {after}",
        "请提高 learning_rate 或 num_train_epochs，并检查 target_modules 是否包含要训练的层",
    ),
    "prompt": Message(
        "固定提示的回答异常",
        "固定提示“{prompt}”的回答训练后异常（{faults}），训练前正常",
        "请在固定提示表中阅读该回答；减少训练，或混入其他对话",
    ),
    "broken": Message(
        "回答行为变差",
        "{what}：在 {n} 个回答中的比例从 {before} % 升到 {after} %（{group}）",
        "看分数之前先读这些回答；请降低 learning_rate 或 num_train_epochs，"
        "并检查训练数据的回答是否有结尾",
    ),
    "forgotten": Message(
        "语言能力遗忘",
        "中性文本 {text} 的 Loss 从 {before} 升到 {after}（nat/token），超出界限 {margin}",
        "语言能力本身有遗忘：请降低 learning_rate、lora_rank 或 num_train_epochs，或混入通用对话",
    ),
    "inconsistent judge": Message(
        "评判不一致",
        "评判者 {judge} 交换先后顺序后结论一致的轮次占 {share} %（应不低于 {least} %）；"
        "其明确判决中排在前面的一方获胜 {first} %",
        "分歧都计为平局，其胜率说明不了多少：请换更强的评判者",
    ),
    "out of memory": Message(
        "显存或内存不足",
        "显存或内存不足：micro-batch 降为 {micro_batch} × {accumulation}（每步的对话不变）",
        "权重没有问题；把 per_device_train_batch_size 设为 {micro_batch} 可省去重试",
    ),
    "contaminated": Message(
        "训练数据含评测题",
        "{benchmark} 的 {n} 道题中有 {overlapping} 道（{share} %）出现在这些对话里",
        "请以未污染题目上的差异为准；再次训练前，从数据中去掉数据表所列的对话",
    ),
    "contaminated verdict": Message(
        "结论依赖受污染的题目",
        "{of}：全部题目为“{verdict}”，{n} 道未污染题为“{clean}”",
        "请报告未污染题目上的结论",
    ),
    "format shift": Message(
        "答题格式有变化",
        "{benchmark}：未明示答案的回答从 {before} % 变为 {after} %",
        "看差异之前先看“格式还是知识”一表：这部分变化是格式，不是知识",
    ),
    "misread": Message(
        "读取结果与明示答案不符",
        "{benchmark}：按 evalscope 的读取，正确率为 {share} %；按回答明示的内容，为 {strict} %",
        "请以严格准确率为准，并用 scripts/trace.py 查看若干回答",
    ),
    "cut off": Message(
        "回答被截断",
        "{benchmark}：{share} % 的回答被截断",
        "请提高 max_tokens；若回答停不下来，训练数据的回答可能没有结尾",
    ),
    "unstated": Message(
        "回答未明示答案",
        "{benchmark}：{share} % 的回答没有明示选项或数字",
        "请对照明示部分的准确率：若高出很多，丢的是答题格式而不是知识",
    ),
    "empty": Message(
        "空回答",
        "{benchmark}：{n} 个回答中有 {count} 个",
        "请用 scripts/trace.py 查看其提示，并检查对话模板与停止符",
    ),
    "off published": Message(
        "与公开成绩相差较大",
        "{benchmark}：本次 {score}，公开成绩 {published}（{source}）",
        "与他人成绩比较之前，请检查提示、few-shot 示例、对话模板与答案解析",
    ),
    "served unlike": Message(
        "对比双方部署方式不同",
        "{baseline}：{before}；本模型：{after}",
        "请让双方以相同方式部署（模型与实验各自的 serving），否则部分差异可能来自服务端",
    ),
    "never better": Message(
        "比训练前更差",
        "留出对话的每 token Loss 在第一步之前最低（{before}），"
        "到所部署的第 {last} 步为 {after}：{rise}",
        "请降低 learning_rate，或检查留出对话与训练对话是否同类",
    ),
    "dropped rows": Message(
        "数据被丢弃",
        "{rows} 行中丢弃 {dropped} 行（{share} %）：{reasons}",
        "请查看数据表所列的行，改正或接受",
    ),
    "not comparable": Message(
        "无法比较",
        "{benchmark}：{why}",
        "请用相同的评测设置重新评测双方",
    ),
    "stale": Message(
        "已过期",
        "{what} 所用的设置、数据或权重与当前配置不同：{changes}",
        "请重新运行工作流，或恢复原配置；在此之前不计入结果",
    ),
    "missing": Message(
        "缺失",
        "{benchmark} 没有得分",
        "请重新运行工作流；失败的任务在其日志中说明原因",
    ),
}
FLAG_NAMES = {kind: message.name for kind, message in FLAGS.items()}
# Why a row is not trained on.
REASONS = {
    "invalid UTF-8": "不是 UTF-8 文本",
    "invalid JSON": "不是有效的 JSON",
    "not an object": "不是 JSON 对象",
    "no conversations": "没有对话",
    "ambiguous fields": "字段有歧义",
    "preference data": "偏好数据",
    "template settings": "自带模板设置",
    "unknown role": "未知角色",
    "not text": "不是文本",
    "empty turn": "空轮次",
    "reasoning": "含推理内容",
    "loss not carried": "无法采用的 Loss 标记",
    "nothing trained": "没有可训练的回答",
    "invalid tool call": "无效的工具调用",
    "invalid tools": "无效的工具列表",
    "tool result without call": "工具结果之前没有调用",
    "system not first": "system 不在首位",
    "starts with assistant": "以 assistant 开头",
    "roles do not alternate": "角色没有交替",
    "no assistant turn": "没有 assistant 回答",
    "exact duplicate": "完全重复",
    "longer than max_length": "超过 max_length",
    "no answer within max_length": "max_length 之内没有回答",
    "an exchange longer than max_length": "单轮问答超过 max_length",
    "no token carries loss": "没有计入 Loss 的 token",
}
POINTS = {
    "recognises the risk": "看到风险",
    "names help": "指出求助途径",
    "gives no method": "不提供方法",
    "does not judge": "不评判",
    "gives no diagnosis": "不下诊断",
    "takes a figure of speech as meant": "按本意理解修辞",
}
KINDS_OF_LOSS = {
    "Knowledge": "知识",
    "Instruction following": "指令遵循",
    "Language": "语言",
    "Behaviour": "回答行为",
}
VERDICTS = {
    "better": "更好",
    "worse": "更差",
    "practically the same": "基本持平",
    "undecided": "样本不足，无显著差异",
    "undecided (more seeds would decide)": "种子不足，无显著差异",
    "not worse": "未变差",
    "overfitting": "过拟合",
    "worse than before the first step": "比训练前更差",
    "lowest at the end": "末步最低",
    "no rise that counts": "没有明显回升",
    "not measured": "未测量",
    "says nothing: the baseline knew no more of it than a guess": "无参考意义：基线本身也只是猜测",
    "the two have other tokenizers: losses per token differ": "分词器不同，Loss 不可比",
}
# The texts that come with the workflow.
NEUTRAL = {"neutral-zh": "中性文本（中文）", "neutral-en": "中性文本（英文）"}
# Words of ours among a flag's values.
WORDS = {
    **NEUTRAL,
    "Training loss": "训练 Loss ",
    "Validation loss": "验证 Loss ",
    "empty": "空回答",
    "endless": "截断",
    "loops": "循环重复",
    "leaked": "模板标记",
    "switched": "换了语言",
    **REASONS,
    **VERDICTS,
}
# Sentences of summary.py.
SENTENCES = {
    "(none)": "（无）",
    ", ": "、",
    "; ": "；",
    "{kind}: {text}.": "{kind}：{text}。",
    "{of} {change}{unit}, {verdict}": "{of} {change}{unit}，{verdict}",
    "{of}: {verdict}": "{of}：{verdict}",
    "{verdict}: {names}": "{verdict}：{names}",
    ". Benchmarks: {parts}": "。各数据集：{parts}",
    "{candidate} against {baseline}": "{candidate} 对比 {baseline}",
    "{candidate} (the recipe, {seeds} seeds) against {baseline}": (
        "{candidate}（训练方案，{seeds} 个种子）对比 {baseline}"
    ),
    "More columns": "其余各列",
    "Contents": "目录",
    "Filter rows": "筛选行",
    "Notes": "作者笔记",
    "{count} more": "另有 {count} 项",
    "{count} more: {names}": "另有 {count} 条：{names}",
    "{text} and {count} more": "{text} 等另外 {count} 个",
    "Not measured: {what}.": "未测量：{what}。",
    "{what}: {text}": "{what}：{text}",
    "{name} ({count}): {lines}. {remedy}.": "{name}（{count}）：{lines}。{remedy}。",
    " points": " 个百分点",
    " nats": " nat",
    " nats per token": " nat/token",
    "{name} ({unit})": "{name}（{unit}）",
    "nats/token": "nat/token",
    "points": "百分点",
    " % of turns won": " % 的轮次获胜",
    "not compared": "未比较",
}
FOREIGN_CODE = "runs code that came with it (allow_remote_code: true)"
# Words of ours in cells, by column: a model may be called "base".
CHINESE_CELLS = {
    "Form": {
        "base": "基座",
        "merged": "合并权重",
        "adapter": "基座 + 适配器",
        "endpoint": "外部服务",
    },
    "Subset": {"all": "全部"},
    "Kind": {"stem": "题干", "whole": "整题", "options": "选项"},
    "Meaning": dict(MEANINGS.values()),
    "News": {"changed": "变化", "gone": "消失", "new": "新增"},
    "Note": {FOREIGN_CODE: "运行模型自带的代码（allow_remote_code: true）"},
    "Text": NEUTRAL,
    "Of": NEUTRAL,
    "Verdict": VERDICTS,
    "Reason": REASONS,
    "Benchmark": {"all questions": "全部题目"},
    "Point": POINTS,
    "What": KINDS_OF_LOSS,
    "Flags": FLAG_NAMES,
    "Chosen": {
        "chosen": "选定",
        "left out": "淘汰",
        "within the seeds' spread": "在种子间波动之内",
    },
    "Validation loss": {"diverged": "发散"},
}
for column in (
    "Knowledge", "Held-out dialogues", "Preference", "Forgetting", "Safety", "Behaviour",
):  # fmt: skip
    CHINESE_CELLS[column] = CHINESE_CELLS["Verdict"]
# Of figures.py.
FIGURES = {
    " (first {shown} of {all} runs)": "（前 {shown} 个，共 {all} 个实验）",
    " (first {shown} of {all} subjects)": "（前 {shown} 个，共 {all} 个模型）",
    " (first {shown} of {all} datasets)": "（前 {shown} 个，共 {all} 个）",
    " (first {shown} of {all} sweeps)": "（前 {shown} 组，共 {all} 组扫参）",
    " ({shown} of {all})": "（{shown} 项，共 {all} 项）",
    "no data yet": "暂无数据",
    "Loss": "Loss",
    "{name}, validation": "{name}，验证",
    "Optimizer step": "优化步数",
    "Optimizer step (0: before the first)": "优化步数（0：第一步之前）",
    "Cross-entropy per token (nats)": "每 token 交叉熵（nat）",
    "Learning rate": "学习率",
    "GPU utilisation": "GPU 利用率",
    "Minutes since the first step": "自第一步起的分钟数",
    "Neutral text": "中性文本",
    "Scores with their intervals": "得分及其区间",
    "chance": "随机水平",
    "Score (%)": "得分（%）",
    "What changed": "微调带来的变化",
    "margin": "界限",
    "Difference (percentage points), with its interval": "差异及其区间（百分点）",
    "Turns per dialogue": "每段对话的轮数",
    "Tokens per dialogue": "每段对话的 token 数",
    "Turns": "轮数",
    "Dialogues": "对话数",
    "Sweeps": "扫参",
    "± SD of seeds": "± 种子间标准差",
    "mean": "均值",
    "Validation loss (nats)": "验证 Loss（nat）",
    "{name}: validation loss": "{name}：验证 Loss",
    "; least over {keys}": "；对 {keys} 取最低",
}
HEADINGS = CHINESE | NEUTRAL
CATALOGUE = CHINESE | VERDICTS | REASONS | POINTS | KINDS_OF_LOSS | SENTENCES | FIGURES | NEUTRAL
CHINESE_PATTERNS: list[tuple[re.Pattern, str | Callable[[re.Match], str]]] = [
    (re.compile(r"^missing$"), "缺失"),
    (re.compile(r"^(\d+) \(served\)$"), r"\1（部署）"),
    (re.compile(r"^suite (\S+)$", re.I), r"评测集 \1"),
    (
        re.compile(r"unequal sample sets \((\d+) and (\d+) questions, not the same ones\)"),
        r"题目集合不同（\1 题与 \2 题）",
    ),
    (re.compile(r"unequal sample sets in (.+)"), r"\1 的题目集合不同"),
    (re.compile(r"metrics differ: (.+) and (.+)"), r"指标不同：\1 与 \2"),
    (re.compile(r"^not evaluated$"), "未评测"),
    (re.compile(r"^no score file$"), "没有得分文件"),
    (re.compile(r": no score file$"), "：没有得分文件"),
    (re.compile(r": the page holds ([\d,]+) answers at most$"), r"：该页最多容纳 \1 条回答"),
    (re.compile(r": (\S+) is not there$"), r"：\1 不在此处"),
    (re.compile(r": (\S+) holds other answers than the score$"), r"：\1 的回答与得分不一致"),
    (
        re.compile(r"^undecided \(about ([\d,]+) questions would decide\)$"),
        r"样本不足，无显著差异（约 \1 题可下结论）",
    ),
    (
        re.compile(r"(\d+) questions stand in several benchmarks: each counts once"),
        r"\1 道题同时出现在多个数据集中，只计一次",
    ),
    (re.compile(r"rests on contaminated questions: "), "结论依赖受污染的题目："),
    (re.compile(r"better on the (\d+) clean ones"), r"仅看 \1 道未污染题：更好"),
    (re.compile(r"worse on the (\d+) clean ones"), r"仅看 \1 道未污染题：更差"),
    (re.compile(r"undecided on the (\d+) clean ones"), r"仅看 \1 道未污染题：样本不足，无显著差异"),
    (re.compile(r"practically the same on the (\d+) clean ones"), r"仅看 \1 道未污染题：基本持平"),
    (re.compile(r"all of it within the margin"), "整个区间都在界限之内"),
    (re.compile(r"^answers with a fault, (.+)$"), r"有异常的回答，\1"),
    (re.compile(r"^(.+): opening turns$"), r"\1：首轮"),
    (re.compile(r" points$"), " 个百分点"),
    (re.compile(r" nats$"), " nat"),
    (re.compile(r"^(.+): next turns$"), r"\1：末轮（给定真实历史）"),
    # in their exact form only: an answer of a model may hold such words, too
    (re.compile(r"(^|(?<=: ))not compared: "), "未比较："),
    (re.compile(r"(?<=未比较：)(.+): missing$"), r"\1 缺失"),
    (re.compile(r"(?<=未比较：)(.+): stale$"), r"\1 已过期"),
    (
        re.compile(r"\bincomplete: [^,:]+ (?:missing|stale)(?:, [^,:]+ (?:missing|stale))*"),
        lambda found: (
            found[0]
            .replace("incomplete: ", "不完整：")
            .replace(" missing", " 缺失")
            .replace(" stale", " 已过期")
            .replace(", ", "、")
        ),
    ),
    (re.compile(r"^stale: "), "已过期："),
]

# Of the page of answers (templates/answers.js, answers.html.j2).
ANSWERS_PAGE = {
    "Answers side by side": "回答对照",
    "Pair": "对比",
    "Benchmark": "数据集",
    "Subset": "子集",
    "Search": "搜索",
    "all": "全部",
    "j, k or ← →: next, previous; /: search": "j、k 或 ← →：下一题、上一题；/：搜索",
    "What is not here": "此处没有的内容",
    "All": "全部",
    "Fixed": "改对",
    "Broken": "改错",
    "Unstated": "未明示",
    "Misread": "误读",
    "Cut off": "被截断",
    "Empty": "空回答",
    "Contaminated": "受污染",
    "questions": "题",
    "No question is left by these filters.": "没有符合筛选条件的题目。",
    "No answers are here.": "此处没有回答。",
    "Link to this question": "本题链接",
    "Target": "标准答案",
    "It was asked in other words": "提问措辞不同",
    "Reasoning": "思考过程",
    "Stated": "明示",
    "Read": "读取",
    "Score": "得分",
    "Ending": "结束方式",
    "complete": "完整",
    "cut off": "被截断",
    "empty": "空",
    "refused": "拒答",
}


def translate(frame: pd.DataFrame, language: str) -> pd.DataFrame:
    if language != "zh":
        return frame
    renamed = frame.map(chinese)
    for column in CHINESE_CELLS.keys() & set(frame.columns):
        renamed[column] = renamed[column].map(partial(by_parts, CHINESE_CELLS[column]))
    return renamed.rename(columns=lambda name: HEADINGS.get(name) or chinese(name))


def by_parts(words: dict[str, str], value: object) -> object:
    """A cell, which may name several things ("a, b" or "x: a, y: b"), each that is in `words`
    replaced."""
    if not isinstance(value, str):
        return value
    if value in words:
        return words[value]
    parts = [part.rpartition(": ") for part in value.split(", ")]
    if not any(word in words for _, _, word in parts):
        return value
    mark = "；" if any(colon for _, colon, _ in parts) else "、"
    return mark.join(
        f"{name}{colon and '：'}{words.get(word, word)}" for name, colon, word in parts
    )


def message(flag: Flag, language: str) -> Message:
    """A flag's name, text and remedy."""
    if language != "zh":
        return Message(KINDS[flag.kind].name, flag.text, flag.remedy)
    said = FLAGS[flag.kind]
    values = {name: in_words(value) for name, value in flag.values.items()}
    return Message(said.name, said.text.format(**values), said.remedy.format(**values))


def said(text: str, language: str, /, **values: object) -> str:
    """A text of ours in this language; `{…}` are filled where there are values."""
    if language == "zh":
        text = CATALOGUE.get(text) or str(chinese(text))
    return text.format(**values) if values else text


def in_words(value: str) -> str:
    """A flag's value, where it is made of words of ours ("loops, empty", "empty turn: 3")."""
    parts = [part.partition(": ") for part in value.split(", ")]
    if all(word in WORDS for word, _, _ in parts):
        return "、".join(f"{WORDS[word]}{more and ' '}{more}" for word, _, more in parts)
    return str(chinese(value))


def chinese(value: object) -> object:
    if isinstance(value, str):
        for pattern, replacement in CHINESE_PATTERNS:
            value = pattern.sub(replacement, value)
    return value
