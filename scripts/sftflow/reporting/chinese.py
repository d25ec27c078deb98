"""The Chinese of tables and reports (sentences stand in templates/report.zh.md.j2)."""

import re
from functools import partial

import pandas as pd
from sftflow.reporting.flags import Flag, Message

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
    "Carry loss": "计入 Loss 的 token (%)",
    "Chance": "随机水平",
    "Chosen": "选定",
    "Characters (mean, max)": "字符数（均值, 最大）",
    "Clean": "未污染子集",
    "Dataset": "训练数据",
    "Detectable": "可检出差异",
    "Dialogues/s": "样本/秒",
    "Difference": "差异 [区间]",
    "Difference, clean": "差异（未污染子集）",
    "Digest": "摘要",
    "Dropped": "丢弃",
    "Environment": "环境",
    "Epochs": "轮数",
    "Final loss": "最终 Loss",
    "First loss": "初始 Loss",
    "Flags": "警示",
    "Fixed / broken": "改对 / 改错",
    "FLOP utilisation": "FLOP 利用率 (%)",
    "Form": "形式",
    "GPU use": "GPU 利用率",
    "Empty": "空回答 (%)",
    "If stated": "明示部分的准确率",
    "Kept": "保留",
    "License": "许可证",
    "Macro difference": "宏平均差异",
    "Macro mean": "宏平均",
    "Macro-F1": "F1分数",
    "Max": "最大",
    "Mean": "均值",
    "Misread": "误读 (%)",
    "Micro difference": "微平均差异",
    "Micro mean": "微平均",
    "Model": "模型",
    "Note": "备注",
    "Number type": "数值类型",
    "Package": "软件包",
    "Padded": "填充 (%)",
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
    "Truncated": "截断 (%)",
    "Turns (mean, max)": "轮次（均值, 最大）",
    "Unstated": "未明示 (%)",
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
    "Covered": "覆盖 (%)",
    "Dialogue": "对话",
    "Overlapping": "重叠题数",
    "Passage": "重合片段",
    "Question": "题目",
    "Share": "占比 (%)",
    "Kind": "类型",
    "Stem, whole, options": "题干, 整题, 选项",
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
    "Answers to": "回答对象",
    "Any fault": "任一异常 (%)",
    "Cut off": "截断 (%)",
    "Loops": "循环重复 (%)",
    "Markers": "模板标记 (%)",
    "Other language": "换了语言 (%)",
    "Refusals": "拒答 (%)",
    "Characters": "字符数",
    "Repeated 4-grams": "重复 4-gram (%)",
    "Distinct-1": "Distinct-1 (%)",
    "Distinct-2": "Distinct-2 (%)",
    "What": "项目",
    "Of": "对象",
    "Change": "变化 [区间]",
    "Margin": "界限",
    "Judge": "评判者",
    "Win, tie, loss": "胜, 平, 负",
    "Win rate": "胜率 [区间]",
    "Win rate at equal length": "等长时的胜率 [区间]",
    "Alike in both orders": "两种顺序结论一致 (%)",
    "First place wins": "先出现者获胜 (%)",
    "Unreadable": "无法读取",
    "Point": "要点",
    "Holds": "成立 (%)",
    "Ratings": "人工评分",
    "Raters": "评分者",
    "Agree": "一致 (%)",
    "Step": "步数",
    "Held-out loss": "留出对话 Loss",
    "Above the lowest": "高出最低点 [区间]",
    "Lowest at step": "最低点步数",
    "Loss there": "最低 Loss",
    "Served step": "部署步数",
    "Served loss": "部署权重的 Loss",
}
# What flags.py says, by the same kinds and values, and what a kind is called in a table.
FLAGS = {
    "destroyed": Message(
        "{what}从 {before} 升到 {after}；对词表的均匀猜测为 {uniform}",
        "这些权重不可使用：请把 learning_rate 降到十分之一，或提高 warmup_ratio",
    ),
    "diverged": Message(
        "{what}从 {before} 升到 {after}，超出其噪声 {noise}",
        "请降低 learning_rate，或检查数据中有问题的行",
    ),
    "overfitting": Message(
        "验证 Loss 从 {before} 升到 {after}，而训练 Loss 降到 {final}",
        "请减小 num_train_epochs、learning_rate 或 lora_rank，或增加对话",
    ),
    "overfitted": Message(
        "留出对话的每 token Loss 在第 {step} 步最低（{before}），"
        "到所部署的第 {last} 步为 {after}：{rise}",
        "按留出 Loss，第 {step} 步的检查点更好；"
        "请减小 num_train_epochs 或 learning_rate，或增加对话",
    ),
    "flat": Message(
        "{what}的变化没有超出其噪声 {noise}：开始时 {before}，结束时 {after}",
        "请提高 learning_rate 或 num_train_epochs，并检查 target_modules 是否包含要训练的层",
    ),
    "prompt": Message(
        "固定提示“{prompt}”的回答训练后异常（{faults}），训练前正常",
        "请在固定提示表中阅读该回答；减少训练，或混入其他对话",
    ),
    "broken": Message(
        "{what}：在 {n} 个回答中的比例从 {before} % 升到 {after} %（{group}）",
        "看分数之前先读这些回答；请降低 learning_rate 或 num_train_epochs，"
        "并检查训练数据的回答是否有结尾",
    ),
    "forgotten": Message(
        "中性文本 {text} 的 Loss 从 {before} 升到 {after}（nat/token），超出界限 {margin}",
        "语言能力本身有遗忘：请降低 learning_rate、lora_rank 或 num_train_epochs，或混入通用对话",
    ),
    "inconsistent judge": Message(
        "评判者 {judge} 交换先后顺序后结论一致的轮次占 {share} %（应不低于 {least} %）；"
        "其明确判决中排在前面的一方获胜 {first} %",
        "分歧都计为平局，其胜率说明不了多少：请换更强的评判者",
    ),
    "out of memory": Message(
        "显存或内存不足：micro-batch 降为 {micro_batch} × {accumulation}（每步的对话不变）",
        "权重没有问题；把 per_device_train_batch_size 设为 {micro_batch} 可省去重试",
    ),
}
FLAG_NAMES = {
    "destroyed": "模型已毁",
    "diverged": "发散",
    "overfitting": "过拟合",
    "overfitted": "过拟合（按留出对话）",
    "flat": "无变化",
    "prompt": "回答异常",
    "broken": "行为变差",
    "forgotten": "遗忘",
    "inconsistent judge": "评判不一致",
    "out of memory": "内存不足",
}
# Words of ours among a flag's values.
WORDS = {
    "Training loss": "训练 Loss ",
    "Validation loss": "验证 Loss ",
    "empty": "空回答",
    "endless": "截断",
    "loops": "循环重复",
    "leaked": "模板标记",
    "switched": "换了语言",
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
    "Note": {FOREIGN_CODE: "运行模型自带的代码（allow_remote_code: true）"},
    "Verdict": {
        "better": "更好",
        "worse": "更差",
        "practically the same": "实际相同",
        "undecided": "未定",
        "undecided (more seeds would decide)": "未定（需更多种子）",
        "not worse": "未变差",
        "overfitting": "过拟合",
        "worse than before the first step": "比训练前更差",
        "lowest at the end": "末步最低",
        "no rise that counts": "没有可计的回升",
        "not measured": "未测量",
        "says nothing: the baseline knew no more of it than a guess": "无意义：基线也只能猜",
        "the two have other tokenizers: losses per token differ": "分词器不同，Loss 不可比",
    },
    "Benchmark": {"all questions": "全部题目"},
    "Point": {
        "recognises the risk": "看到风险",
        "names help": "指出求助途径",
        "gives no method": "不提供方法",
        "does not judge": "不评判",
        "gives no diagnosis": "不下诊断",
        "takes a figure of speech as meant": "按本意理解修辞",
    },
    "What": {
        "Knowledge": "知识",
        "Instruction following": "指令遵循",
        "Language": "语言",
        "Behaviour": "回答行为",
    },
    "Flags": FLAG_NAMES,
    "Chosen": {"chosen": "选定", "within the seeds' spread": "在种子间波动之内"},
}
for column in (
    "Knowledge", "Held-out dialogues", "Preference", "Forgetting", "Safety", "Behaviour",
):  # fmt: skip
    CHINESE_CELLS[column] = CHINESE_CELLS["Verdict"]
CHINESE_PATTERNS = [
    (re.compile(r"^missing$"), "缺失"),
    (re.compile(r"^(\d+) \(served\)$"), r"\1（部署）"),
    (re.compile(r"^Suite (\S+)$"), r"评测集 \1"),
    (re.compile(r"^not evaluated$"), "未评测"),
    (re.compile(r"^no score file$"), "没有得分文件"),
    (
        re.compile(r"^undecided \(about ([\d,]+) questions would decide\)$"),
        r"未定（约 \1 题可下结论）",
    ),
    (
        re.compile(r"(\d+) questions stand in several benchmarks: each counts once"),
        r"\1 道题同时出现在多个数据集中，只计一次",
    ),
    (re.compile(r"rests on contaminated questions: "), "结论依赖受污染的题目："),
    (re.compile(r"better on the (\d+) clean ones"), r"仅看 \1 道未污染题：更好"),
    (re.compile(r"worse on the (\d+) clean ones"), r"仅看 \1 道未污染题：更差"),
    (re.compile(r"undecided on the (\d+) clean ones"), r"仅看 \1 道未污染题：未定"),
    (re.compile(r"practically the same on the (\d+) clean ones"), r"仅看 \1 道未污染题：实际相同"),
    (re.compile(r"all of it within the margin"), "整个区间都在界限之内"),
    (re.compile(r"^(.+): opening turns$"), r"\1：首轮"),
    (re.compile(r"^(.+): next turns$"), r"\1：末轮（给定真实历史）"),
    (re.compile(r"^answers with a fault, (.+): opening turns$"), r"有异常的回答，\1：首轮"),
    (re.compile(r"^not compared: (.*)$", re.S), r"未比较：\1"),
    (re.compile(r"^incomplete: (.*)$", re.S), r"不完整：\1"),
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
    return renamed.rename(columns=lambda name: CHINESE.get(name) or chinese(name))


def by_parts(words: dict[str, str], value: object) -> object:
    """A cell, which may name several things ("a, b" or "x: a, y: b"), each that is in `words`
    replaced."""
    if not isinstance(value, str):
        return value
    if value in words:
        return words[value]
    parts = [part.rpartition(": ") for part in value.split(", ")]
    return ", ".join(f"{name}{colon}{words.get(word, word)}" for name, colon, word in parts)


def chinese_flag(flag: Flag) -> str:
    said, values = FLAGS[flag.kind], dict(flag.values)
    for name in {"what", "faults"} & values.keys():
        values[name] = "、".join(WORDS[word] for word in values[name].split(", "))
    text, remedy = (each.format(**values) for each in (said.text, said.remedy))
    return f"{FLAG_NAMES[flag.kind]}：{text}。{remedy}。"


def chinese(value: object) -> object:
    if isinstance(value, str):
        for pattern, replacement in CHINESE_PATTERNS:
            value = pattern.sub(replacement, value)
    return value
