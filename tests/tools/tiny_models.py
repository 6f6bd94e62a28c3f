"""Small models that are never trained, for tests of models in the loop."""

from pathlib import Path
from typing import Any

import torch
import transformers

torch.set_num_threads(1)
SIZE = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
SIZE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
SIZE |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def tiny(config: str = "LlamaConfig", seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    made = getattr(transformers, config)(**{**SIZE, **more})
    return transformers.AutoModelForCausalLM.from_config(made).eval()


def saved(model: Any, folder: Path) -> Path:
    """A folder with a model and a tokenizer of one token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[UNK]": 0, "</s>": 2, **{f"w{at}": at for at in range(3, 64)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    return folder
