"""Parts of a model that tensors of a Hugging Face checkpoint are, by their names.

Scales, zero points and indices of packed weights stand beside them under the same module, so they
count with them.
"""

import re

from dipsim.model.storage import Part

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d{1,6})\.(.+)", re.ASCII)
_APART = re.compile(
    r"(^|\.)(vision\w*|visual|audio\w*|multi_modal_projector|mm_projector|embed_vision|embed_audio"
    r"|mtp\w*|vision_embed_tokens|image_newline)(\.|$)",
    re.ASCII,
)
_OUTSIDE: tuple[tuple[str, tuple[Part, ...]], ...] = (
    (r"lm_head|embed_out", ("head",)),
    (r"embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|embeddings?$", ("embedding",)),
    (r"norm|ln_f", ("norm",)),
)
_INSIDE: tuple[tuple[str, tuple[Part, ...]], ...] = (
    (r"shared_experts?\.|shared_mlp\.", ("shared",)),
    (r"attn|attention|mamba|conv|temporal|delta", ("attention",)),
    (r"(^|\.)(gate|router|wg)(\.|$)", ("router",)),
    (r"gate_up_proj|gate_and_up_proj|input_linear", ("gate", "up")),
    (r"gate_proj|\.w1(\.|$)|linear_1", ("gate",)),
    (r"up_proj|\.w3(\.|$)|fc1|c_fc|fc_in|dense_h_to_4h|linear_v", ("up",)),
    (r"down_proj|\.w2(\.|$)|fc2|mlp\.c_proj|fc_out|dense_4h_to_h|output_linear", ("down",)),
    (r"mixer|ssm", ("attention",)),
)


def parts_of(name: str, axes: int, layers: int) -> tuple[Part, ...]:
    """Return the parts of a model that a tensor belongs to, in equal shares; none where decoding
    does not use it: what sees, hears, or predicts further tokens.

    Args:
        name: of the tensor.
        axes: number of its axes.
        layers: of the model; those beyond predict further tokens.
    """
    if _APART.search(name):
        return ()
    match = _LAYER.search(name)
    if match is None:
        return _first(_OUTSIDE, name.rpartition(".")[0] or name, ("other",))
    if int(match[1]) >= layers:
        return ()
    inside = match[2]
    if axes == 1 and re.search(r"norm|ln_\d", inside):
        return ("other",) if "attn." in inside or inside.endswith("bias") else ("norm",)
    if axes == 1 and inside.endswith("bias"):
        return ("other",)
    return _first(_INSIDE, inside, ("other",))


def _first(
    table: tuple[tuple[str, tuple[Part, ...]], ...], name: str, other: tuple[Part, ...]
) -> tuple[Part, ...]:
    return next((parts for form, parts in table if re.search(form, name)), other)
