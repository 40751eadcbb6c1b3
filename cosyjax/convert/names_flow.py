"""Names and sizes of the official flow (`flow.pt`)."""

from __future__ import annotations

from collections.abc import Mapping

from cosyjax.convert.mapping import Rule, conv, linear, norm
from cosyjax.errors import InputError
from cosyjax.models.estimator import EstimatorConfig
from cosyjax.models.flow import FlowConfig
from cosyjax.models.upsample_encoder import UpsampleEncoderConfig

Shapes = Mapping[str, tuple[int, ...]]


def rules(config: FlowConfig) -> list[Rule]:
    """The table of the whole flow, in the order of the official state dict."""
    return [
        Rule("token_embed.embedding", "input_embedding.weight"),
        *linear("speaker_proj", "spk_embed_affine_layer"),
        *encoder_rules(config.encoder, "encoder.", "encoder."),
        *linear("encoder_proj", "encoder_proj"),
        *estimator_rules(config.estimator, "estimator.", "decoder.estimator."),
    ]


def encoder_rules(
    config: UpsampleEncoderConfig, ours: str = "", theirs: str = "encoder."
) -> list[Rule]:
    """The table of the encoder, under a prefix on either side."""
    table = [
        *_embed("embed", "embed"),
        *norm("out_norm", "after_norm"),
        *conv("lookahead.ahead", "pre_lookahead_layer.conv1"),
        *conv("lookahead.behind", "pre_lookahead_layer.conv2"),
    ]
    for i in range(config.num_layers):
        table += _conformer(f"layers_{i}", f"encoders.{i}")
    table += [*conv("upsample.conv", "up_layer.conv"), *_embed("up_embed", "up_embed")]
    for i in range(config.num_up_layers):
        table += _conformer(f"up_layers_{i}", f"up_encoders.{i}")
    return _prefixed(table, ours, theirs)


def _embed(ours: str, theirs: str) -> list[Rule]:
    return [*linear(f"{ours}.dense", f"{theirs}.out.0"), *norm(f"{ours}.norm", f"{theirs}.out.1")]


def _conformer(ours: str, theirs: str) -> list[Rule]:
    attention, official = f"{ours}.attention", f"{theirs}.self_attn"
    return [
        Rule(f"{attention}.content_bias", f"{official}.pos_bias_u"),
        Rule(f"{attention}.position_bias", f"{official}.pos_bias_v"),
        *linear(f"{attention}.query", f"{official}.linear_q"),
        *linear(f"{attention}.key", f"{official}.linear_k"),
        *linear(f"{attention}.value", f"{official}.linear_v"),
        *linear(f"{attention}.out", f"{official}.linear_out"),
        *linear(f"{attention}.position", f"{official}.linear_pos", bias=False),
        *linear(f"{ours}.mlp_in", f"{theirs}.feed_forward.w_1"),
        *linear(f"{ours}.mlp_out", f"{theirs}.feed_forward.w_2"),
        *norm(f"{ours}.mlp_norm", f"{theirs}.norm_ff"),
        *norm(f"{ours}.attention_norm", f"{theirs}.norm_mha"),
    ]


def estimator_rules(
    config: EstimatorConfig, ours: str = "", theirs: str = "estimator."
) -> list[Rule]:
    """The table of the velocity estimator, under a prefix on either side."""
    blocks = config.num_blocks
    table = [
        *linear("time.dense_in", "time_mlp.linear_1"),
        *linear("time.dense_out", "time_mlp.linear_2"),
        *_stage("down", "down_blocks.0", blocks),
        *conv("down_conv", "down_blocks.0.2"),
    ]
    for i in range(config.num_mid_stages):
        table += _stage(f"mid_{i}", f"mid_blocks.{i}", blocks)
    table += [
        *_stage("up", "up_blocks.0", blocks),
        *conv("up_conv", "up_blocks.0.2"),
        *conv("final.conv", "final_block.block.0"),
        *norm("final.norm", "final_block.block.2"),
        *conv("out", "final_proj"),
    ]
    return _prefixed(table, ours, theirs)


def _stage(ours: str, theirs: str, num_blocks: int) -> list[Rule]:
    resnet, official = f"{ours}.resnet", f"{theirs}.0"
    table = [
        *linear(f"{resnet}.time", f"{official}.mlp.1"),
        *conv(f"{resnet}.first.conv", f"{official}.block1.block.0"),
        *norm(f"{resnet}.first.norm", f"{official}.block1.block.2"),
        *conv(f"{resnet}.second.conv", f"{official}.block2.block.0"),
        *norm(f"{resnet}.second.norm", f"{official}.block2.block.2"),
        *conv(f"{resnet}.shortcut", f"{official}.res_conv"),
    ]
    for i in range(num_blocks):
        table += _transformer(f"{ours}.blocks_{i}", f"{theirs}.1.{i}")
    return table


def _transformer(ours: str, theirs: str) -> list[Rule]:
    return [
        *norm(f"{ours}.attention_norm", f"{theirs}.norm1"),
        *linear(f"{ours}.query", f"{theirs}.attn1.to_q", bias=False),
        *linear(f"{ours}.key", f"{theirs}.attn1.to_k", bias=False),
        *linear(f"{ours}.value", f"{theirs}.attn1.to_v", bias=False),
        *linear(f"{ours}.out", f"{theirs}.attn1.to_out.0"),
        *norm(f"{ours}.mlp_norm", f"{theirs}.norm3"),
        *linear(f"{ours}.mlp_in", f"{theirs}.ff.net.0.proj"),
        *linear(f"{ours}.mlp_out", f"{theirs}.ff.net.2"),
    ]


def _prefixed(table: list[Rule], ours: str, theirs: str) -> list[Rule]:
    return [Rule(ours + rule.ours, theirs + rule.theirs, rule.layout) for rule in table]


def config_from_shapes(
    shapes: Shapes,
    *,
    estimator_heads: int = 8,
    mask_chunk: int = 25,
) -> FlowConfig:
    """Reads the sizes of a flow off its official tensors.

    Args:
      shapes: {official key: shape}.
      estimator_heads: heads of the estimator, which its tensors do not tell.
      mask_chunk: tokens per chunk, which the tensors do not tell.

    Raises:
      InputError: a key that every flow has is missing.
    """
    return FlowConfig(
        vocab_size=_shape(shapes, "input_embedding.weight")[0],
        speaker_dim=_shape(shapes, "spk_embed_affine_layer.weight")[1],
        mask_chunk=mask_chunk,
        encoder=encoder_config(shapes),
        estimator=estimator_config(shapes, num_heads=estimator_heads),
    )


def encoder_config(shapes: Shapes, prefix: str = "encoder.") -> UpsampleEncoderConfig:
    """Reads the sizes of an encoder off the official tensors under `prefix`."""
    size = lambda key: _shape(shapes, prefix + key)
    layers, up_layers = (_count(shapes, f"{prefix}{name}.") for name in ("encoders", "up_encoders"))
    first = "encoders.0" if layers else "up_encoders.0"
    return UpsampleEncoderConfig(
        embed_dim=size("after_norm.weight")[0],
        num_heads=size(f"{first}.self_attn.pos_bias_u")[0],
        mlp_dim=size(f"{first}.feed_forward.w_1.weight")[0],
        num_layers=layers,
        num_up_layers=up_layers,
        lookahead=size("pre_lookahead_layer.conv1.weight")[2] - 1,
        lookahead_width=size("pre_lookahead_layer.conv2.weight")[2],
        upsample_width=size("up_layer.conv.weight")[2],
    )


def estimator_config(
    shapes: Shapes, prefix: str = "decoder.estimator.", *, num_heads: int = 8
) -> EstimatorConfig:
    """Reads the sizes of a velocity estimator off the official tensors under `prefix`.

    Raises:
      InputError: a missing key, or a number of heads that does not divide the attention's width.
    """
    size = lambda key: _shape(shapes, prefix + key)
    blocks = _count(shapes, f"{prefix}down_blocks.0.1.")
    block = "down_blocks.0.1.0"
    inner = size(f"{block}.attn1.to_q.weight")[0] if blocks else num_heads
    if inner % num_heads:
        raise InputError(f"the estimator's attention is {inner} wide: not {num_heads} heads")
    return EstimatorConfig(
        num_mels=size("final_proj.weight")[0],
        embed_dim=size("final_proj.weight")[1],
        time_dim=size("time_mlp.linear_1.weight")[0],
        num_mid_stages=_count(shapes, f"{prefix}mid_blocks."),
        num_blocks=blocks,
        num_heads=num_heads,
        head_dim=inner // num_heads,
        mlp_dim=size(f"{block}.ff.net.0.proj.weight")[0] if blocks else 1,
        conv_width=size("final_block.block.0.weight")[2],
    )


def _shape(shapes: Shapes, key: str) -> tuple[int, ...]:
    if key not in shapes:
        raise InputError(f"not an official flow: it has no {key}")
    return tuple(shapes[key])


def _count(shapes: Shapes, prefix: str) -> int:
    numbers = {key[len(prefix) :].split(".")[0] for key in shapes if key.startswith(prefix)}
    return len({n for n in numbers if n.isdigit()})
