"""Whole models: fused they answer and learn as PEFT's own do, and undone they are PEFT's own."""

import torch
import transformers
from cases import DEVICE, ENGINES, ON_GPU, each, engine, error
from peft import LoraConfig, get_peft_model
from sftflow.kernels.attention import varlen_attention
from sftflow.kernels.fuse import fuse
from sftflow.kernels.limits import supports

transformers.AttentionInterface.register("varlen", varlen_attention)
SHAPE = {"hidden_size": 48, "intermediate_size": 64, "num_attention_heads": 3, "head_dim": 16}
IDS = torch.arange(24, device=DEVICE).view(2, 12)
KEPT = torch.tensor([3, 4, 11], device=DEVICE)
LIMIT = 1e-2 if ON_GPU else 1e-5  # a GPU may multiply in tf32
LAYERS = 14  # of LoRA, in two decoder layers


def build(family: str = "Llama", shape: dict | None = None, **lora) -> torch.nn.Module:
    """A random model of two layers with random adapters; its configuration names a window of 5."""
    config = getattr(transformers, f"{family}Config")(
        **SHAPE | (shape or {}), num_hidden_layers=2, num_key_value_heads=1, vocab_size=64,
        sliding_window=5,
    )  # fmt: skip
    plain = getattr(transformers, f"{family}ForCausalLM")(config)
    for name, parameter in plain.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    given = {"r": 8, "target_modules": "all-linear", "init_lora_weights": False} | lora
    return get_peft_model(plain, LoraConfig(**given)).to(DEVICE).train()


def learn(model: torch.nn.Module) -> list[torch.Tensor]:
    """The logits and the gradients of one forward and backward pass, with the dropout of a seed."""
    torch.manual_seed(1)
    model.zero_grad()
    logits = model(IDS, logits_to_keep=KEPT, use_cache=False).logits
    logits.pow(2).sum().backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.requires_grad)]


def near(found: list, wanted: list, limit: float = LIMIT) -> bool:
    return all(error(*pair) < limit for pair in zip(found, wanted, strict=True))


def same(found: list, wanted: list) -> bool:
    return all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


def state(model: torch.nn.Module) -> dict:
    """What could differ in an object that was fused and undone."""
    return {
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "hooks": len(model._forward_pre_hooks),
        "strides": [parameter.stride() for parameter in model.parameters()],
    }


# also where one layer's rank keeps it out, and with a window, or one named that is not there
FAMILIES = (
    ("Llama", {}), ("Llama", {"v_proj": 4}), ("Llama", {"up_proj": 4}),
    ("Mistral", {}), ("Qwen2", {}), ("Qwen3", {}),
)  # fmt: skip


@each(by=ENGINES, family=FAMILIES)
def fused_as_stock(by, family):
    name, ranks = family
    model = build(name, rank_pattern=ranks)
    with engine(by):
        wanted = learn(model)
        handle = fuse(model)
        assert handle.layers == LAYERS
        decoders = 0 if by == "torch" or "up_proj" in ranks else 2
        assert handle.decoders == decoders
        model.base_model.model.config._attn_implementation = "varlen"
        found = learn(model)
        assert near(found, wanted)
        with torch.no_grad():  # with a cache of keys and values, too
            assert error(model(IDS, logits_to_keep=KEPT).logits, found[0]) < LIMIT
        with model.disable_adapter(), torch.no_grad():
            logits = model(IDS, logits_to_keep=KEPT).logits
            assert error(logits, model(IDS).logits[:, KEPT]) < 1e-5
            mask = torch.zeros(12, dtype=torch.bool, device=DEVICE).index_fill_(0, KEPT, True)
            assert torch.equal(model(IDS, logits_to_keep=mask).logits, logits)
            assert error(logits, wanted[0]) > 0.01


@each(by=ENGINES, p=(0.0, 0.1))
def recomputed_as_kept(by, p):
    """Layers that are recomputed for the backward pass draw the same dropout."""
    model = build(lora_dropout=p)
    with engine(by):
        fuse(model)
        kept = learn(model)
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        assert near(learn(model), kept, 1e-5)


@each(by=ENGINES, family=("Llama", "Qwen2", "Qwen3"))
def undone_is_stock(by, family):
    """Outputs, gradients, weights, attributes, bit for bit, on the same object; also twice."""
    model = build(family, lora_dropout=0.1)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before, wanted = state(model), learn(model)
    with engine(by):
        handle = fuse(model)
        assert not same(learn(model), wanted)  # another dropout
        handle.undo()
        assert state(model) == before
        assert same(learn(model), wanted)
        handle.undo()
        fuse(model).undo()
    assert same(learn(model), wanted)
    now = model.state_dict()
    assert now.keys() == weights.keys() and all(torch.equal(now[k], weights[k]) for k in weights)
    with torch.no_grad():
        answers = model.eval()(IDS).logits
        merged = model.merge_and_unload()  # what a fused model is not for
        assert error(merged(IDS).logits, answers) < LIMIT


@each(by=ENGINES, family=("Llama", "Qwen3"))
def fp8_nearly_as_stock(by, family):
    """The frozen matrices are in 8 bits and nowhere else; undone, they are what they became."""
    model = build(family, lora_dropout=0.1)
    layers = [module for name, module in model.named_modules() if name.endswith("base_layer")]
    with engine(by):
        handle = fuse(model)
        wanted = learn(model)
        handle.undo()
        handle = fuse(model, fp8=True)
        assert (handle.layers, len(handle.rounded)) == (LAYERS, LAYERS)
        found = learn(model)
        assert {layer.weight.dtype for layer in layers} == {torch.float8_e4m3fn}
        assert error(found[0], wanted[0]) < 0.2  # two layers, and an output of 24 numbers
        assert max(error(*pair) for pair in zip(found, wanted, strict=True)) < 0.5
        handle.undo()
        assert {layer.weight.dtype for layer in layers} == {torch.float32}
        fuse(model)
        assert 0 < error(learn(model)[0], wanted[0]) < 0.2


@each(by=ENGINES)
def failed_fuse_leaves_stock(by):
    """Something unforeseen in a later layer: nothing of an earlier one stays changed."""
    model = build()
    before, wanted = state(model), learn(model)
    second = model.base_model.model.model.layers[1]
    with engine(by):
        for layer in (second.mlp.gate_proj, second.self_attn.q_proj):
            stock, layer.scaling = layer.scaling, {}
            try:
                fuse(model)
            except KeyError:
                pass
            else:
                raise AssertionError("fused without a scale")
            finally:
                layer.scaling = stock
            assert state(model) == before
    assert same(learn(model), wanted)


# what a reason names, the model's shape, PEFT's settings, how many of LAYERS are fused all the same
REFUSED = (
    ("", {}, {}, LAYERS),
    ("", {}, {"use_rslora": True, "lora_dropout": 0.1}, LAYERS),
    ("use_dora", {}, {"use_dora": True}, 0),
    ("rank 65", {}, {"r": 65}, 0),
    ("rank 128", {}, {"rank_pattern": {"q_proj": 128}}, LAYERS - 2),
    ("lora_bias", {"attention_bias": True, "mlp_bias": True}, {"lora_bias": True}, 0),
    ("bias all", {"attention_bias": True, "mlp_bias": True}, {"bias": "all"}, 0),
    ("72 wide", {"intermediate_size": 72}, {}, LAYERS - 2),
    ("24 wide", {"head_dim": 8}, {}, LAYERS - 2),
)


@each(case=REFUSED)
def supports_names_the_reason(case):
    """Before there is a model, what `fuse` then leaves alone; it still learns as PEFT's own."""
    names, shape, lora, fused = case
    model = build(shape=shape, **lora)
    reasons = supports(model.config.to_dict(), model.peft_config["default"].to_dict())
    assert any(names in reason for reason in reasons) if names else reasons == []
    wanted = learn(model)
    assert fuse(model).layers == fused
    if not lora.get("lora_dropout"):
        assert near(learn(model), wanted)


@each(case=(("mica", {}, {"init_lora_weights": "mica"}),
            ("velora_config", {}, {"velora_config": {"scale": 1.0}}),
            ("quantised", {"quantization_config": {"bits": 4}}, {})))  # fmt: skip
def supports_names_what_no_small_model_shows(case):
    names, config, lora = case
    (reason,) = supports(config, lora)
    assert names in reason
