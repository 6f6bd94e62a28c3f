"""Small models that are never trained, for tests of models in the loop."""

from pathlib import Path
from typing import Any

import torch
import transformers

torch.set_num_threads(1)
SIZE = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
SIZE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
SIZE |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


WORDS = {"[UNK]": 0, "</s>": 2, **{f"w{token}": token for token in range(3, 64)}}


def tiny(config: str = "LlamaConfig", seed: int = 0, **more: Any) -> Any:
    """Return a model of an architecture with random weights; ``more`` is for its configuration."""
    torch.manual_seed(seed)
    architecture = getattr(transformers, config)(**{**SIZE, **more})
    return transformers.AutoModelForCausalLM.from_config(architecture).eval()


def saved(
    model: Any, folder: Path, words: dict[str, int] | None = None, unknown: str = "[UNK]"
) -> Path:
    """Save a model and a tokenizer of one token a word (`WORDS`); return the folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel(words or WORDS, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    return folder
