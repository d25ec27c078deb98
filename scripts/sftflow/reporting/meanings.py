"""What the settings of a training mean, for whoever reads a report: in English, and in Chinese."""

MEANINGS = {
    "tuner_type": (
        "lora trains an adapter beside frozen weights, full trains all weights",
        "lora 只训练适配器，原权重不动；full 训练全部权重",
    ),
    "lora_rank": (
        "rank of the adapter: how much it can learn, and how large it is",
        "LoRA 秩：决定适配器的容量与大小",
    ),
    "lora_alpha": (
        "scale of the adapter: it is added times alpha / rank",
        "LoRA 缩放：适配器以 alpha / rank 的倍数叠加",
    ),
    "lora_dropout": (
        "share of the adapter's inputs dropped in training",
        "训练时丢弃的适配器输入比例",
    ),
    "target_modules": ("layers that get an adapter", "加适配器的层"),
    "torch_dtype": ("number type of weights and computation", "权重与计算的数值类型"),
    "precision": (
        "number type of the frozen base's products: that of torch_dtype, or 8 bits",
        "冻结权重的矩阵乘法所用数值类型：与 torch_dtype 相同，或 8 位",
    ),
    "num_train_epochs": ("how often each dialogue is seen", "每条对话训练几遍"),
    "per_device_train_batch_size": (
        "dialogues that a GPU has at once",
        "每张卡一次处理的对话数",
    ),
    "gradient_accumulation_steps": (
        "such batches that make one step",
        "累积几个批次更新一次",
    ),
    "learning_rate": ("largest size of a step", "学习率的最大值"),
    "lr_scheduler_type": ("how the learning rate falls after the warm-up", "预热后学习率如何下降"),
    "warmup_ratio": (
        "share of the steps in which the learning rate rises",
        "学习率上升阶段占总步数的比例",
    ),
    "weight_decay": ("pull of the trained weights towards 0", "把所训练权重拉向 0 的强度"),
    "max_length": ("longest dialogue, in tokens", "对话的最大 token 数"),
    "too_long": ("what is done with longer ones", "更长的对话如何处理"),
    "eval_steps": (
        "steps between two validations; changes no weight",
        "每隔几步验证一次，不影响权重",
    ),
    "save_steps": (
        "steps between two checkpoints; changes no weight",
        "每隔几步保存一次，不影响权重",
    ),
    "save_total_limit": ("checkpoints kept while it trains", "训练中最多保留的检查点数"),
    "logging_steps": ("steps between two lines in the log", "每隔几步记录一次日志"),
    "seed": (
        "of the order of the dialogues and the adapter's first weights",
        "对话顺序与适配器初值的随机种子",
    ),
}
