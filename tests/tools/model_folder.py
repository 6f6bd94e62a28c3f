"""A folder in which every example of the help runs: a model, a text, arrays, a file to read."""

from pathlib import Path

import numpy as np
import yaml

from tools.folder import MODEL, RECENCY
from tools.tiny_models import saved, tiny


def fill(path: Path) -> None:
    """Write all files into a folder that exists."""
    rng = np.random.default_rng(0)
    saved(tiny(max_position_embeddings=1024), path / "my-model")
    words = rng.integers(3, 64, 4096)
    (path / "book.txt").write_text(" ".join(f"w{word}" for word in words))
    acts = rng.random((12, MODEL["layers"], MODEL["intermediate"])).astype(np.float32)
    np.savez(path / "activations.npz", acts=acts)
    (path / "model.yaml").write_text(yaml.safe_dump(MODEL))
    (path / "mine.py").write_text(RECENCY)
    (path / "large.bin").write_bytes(rng.bytes(2**23))
    (path / "reads.csv").write_text(
        "size,lanes,bandwidth\n4 KiB,1,100 MB/s\n64 KiB,1,500 MB/s\n1 MiB,1,1.5 GB/s\n"
    )
