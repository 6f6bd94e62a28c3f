"""What is too large, or not believable, is refused in one line before anything is replayed."""

from typing import Any

import numpy as np
import pytest

from tools.cli import Dipsim, refused

pytestmark = pytest.mark.usefixtures("quiet")
RUN = "run t.npz --profile snapdragon8 --cache-fraction .5"


def allocate(*_: object, **__: object) -> Any:
    return np.empty(2**50)


def allocate_in_torch(*_: object, **__: object) -> Any:
    raise RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
    )


@pytest.mark.parametrize(
    ("fails", "said"), [(allocate, "8.00 PiB"), (allocate_in_torch, "DefaultCPUAllocator")]
)
def test_what_does_not_fit_in_memory(
    dipsim: Dipsim, monkeypatch: pytest.MonkeyPatch, fails: Any, said: str
) -> None:
    monkeypatch.setattr("dipsim.cli.run._prepared", fails)
    refused(dipsim(RUN), "not enough memory", said, "--tokens")
