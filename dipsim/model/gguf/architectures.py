"""Architectures whose GGUF files are understood, and the layers in which each has its window.

The periods are those of llama.cpp: it names a model's pattern in the file only where layers of one
architecture differ in it.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Windows(NamedTuple):
    """The layers with a window: of every ``period`` all but the last, or all but the first."""

    period: int | None = None
    """Layers in one period; None: all have the window."""
    full_first: bool = False
    usual: int | None = None
    """Positions where the file names none."""

    def has(self, layer: int) -> bool:
        """Return True if a layer has the window."""
        if self.period is None:
            return True
        return layer % self.period != (0 if self.full_first else self.period - 1)


_EVERYWHERE = (
    "llama deci falcon baichuan grok gpt2 gptj gptneox mpt starcoder refact bloom stablelm qwen "
    "qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3vl qwen3vlmoe qwen3next qwen35 qwen35moe phi2 phi3 "
    "phimoe plamo codeshell orion internlm2 minicpm minicpm3 gemma starcoder2 mamba mamba2 jamba "
    "xverse command-r dbrx olmo olmoe openelm arctic deepseek deepseek2 chatglm glm4 glm4moe "
    "glm-dsa bitnet jais nemotron nemotron_h nemotron_h_moe exaone granite granitemoe "
    "granitehybrid plm bailingmoe bailingmoe2 dots1 arcee ernie4_5 ernie4_5-moe falcon-h1 "
    "hunyuan-moe hunyuan-dense smollm3 lfm2 lfm2moe seed_oss grovemoe apertus minimax-m2 "
    "pangu-embedded mistral3 mistral4 mimo2 step35 maincoder kimi-linear gemma4"
)
ARCHITECTURES: Mapping[str, Windows] = {
    **dict.fromkeys(_EVERYWHERE.split(), Windows()),
    "gemma2": Windows(2),
    "gemma3": Windows(6),
    "gemma3n": Windows(5),
    "gpt-oss": Windows(2),
    "cohere2": Windows(4),
    "exaone4": Windows(4),
    "exaone-moe": Windows(4),
    "olmo2": Windows(4),
    "afmoe": Windows(4),
    "llama4": Windows(4, usual=8192),
    "smallthinker": Windows(4, full_first=True),
}
"""Layers with a window, if the file gives one, by ``general.architecture``."""
