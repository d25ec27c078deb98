"""What the kernels can do, for those who must know without torch."""

# Decoders whose layers hand `position_ids` to the attention, as packed rows need.
PACKED_TYPES = {"llama", "mistral", "qwen2", "qwen3"}
# Attention implementations that take packed rows; `varlen` is ours (sftflow.kernels).
PACKING = {
    "varlen", "flash_attn", "flash_attention_2", "flash_attention_3", "flash_attention_4",
}  # fmt: skip
FUSED_RANK = 64  # the largest rank of a fused LoRA layer: its kernels keep that much in registers
LIGER_TYPES = {"llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "phi3"}
