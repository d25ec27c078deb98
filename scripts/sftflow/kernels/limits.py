"""What the kernels can do, for those who must know without torch."""

# Decoders whose layers hand `position_ids` to the attention, as packed rows need.
PACKED_TYPES = {"llama", "mistral", "qwen2", "qwen3"}
# Attention implementations that take packed rows; `varlen` is ours (attention.py).
PACKING = {
    "varlen", "flash_attn", "flash_attention_2", "flash_attention_3", "flash_attention_4",
}  # fmt: skip
FUSED_RANK = 64  # the largest rank of a fused LoRA layer: its kernels keep that much in registers
LIGER_TYPES = {"llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "phi3"}

# settings of PEFT's LoraConfig under which a layer computes something else than W x + s B A x
VARIANTS = (
    "use_dora", "use_bdlora", "use_qalora", "alora_invocation_tokens", "arrow_config",
    "velora_config", "monteclora_config",
)  # fmt: skip


def supports(config: dict, lora: dict) -> list[str]:
    """Why `fuse.fuse` would leave LoRA layers to PEFT; empty if it takes them all.

    config: a model's config.json; lora: PEFT's adapter_config.json, or what is known of either.
    """
    ranks = [lora.get("r") or 8, *(lora.get("rank_pattern") or {}).values()]
    hidden, heads = config.get("hidden_size") or 0, config.get("num_attention_heads") or 1
    head = config.get("head_dim") or hidden // heads
    widths = {hidden, heads * head, config.get("intermediate_size") or 0}
    uneven = sorted(width for width in widths if width % 16)
    reasons = [f"{name} is another layer than LoRA's" for name in VARIANTS if lora.get(name)]
    if lora.get("init_lora_weights") == "mica":
        reasons.append("init_lora_weights mica is another layer than LoRA's")
    if max(ranks) > FUSED_RANK:
        reasons.append(f"rank {max(ranks)} is over {FUSED_RANK}")
    if lora.get("lora_bias"):
        reasons.append("lora_bias: B has a bias")
    if (lora.get("bias") or "none") != "none":
        reasons.append(f"bias {lora['bias']}: the layers' own biases are trained")
    if config.get("quantization_config"):
        reasons.append("the model is quantised")
    if uneven:
        reasons.append(f"layers {', '.join(map(str, uneven))} wide: not a multiple of 16")
    return reasons
