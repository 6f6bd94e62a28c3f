"""Does a model whose keys and values are rounded see what its cache would hold?"""

import os
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tools.paths import NEEDS_TORCH

torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
transformers = pytest.importorskip("transformers", reason=NEEDS_TORCH)

from dipsim import lm  # noqa: E402
from dipsim.errors import DipsimError, ModelError  # noqa: E402
from dipsim.kv.bits import parse_format  # noqa: E402
from dipsim.kv.rounding import rounded  # noqa: E402
from dipsim.lm.attention import attention_through  # noqa: E402
from naive import kv_rounding as naive  # noqa: E402
from tools.tiny_models import tiny  # noqa: E402

TOKENS, DIM = 24, 4
IDS = torch.randint(3, 60, (2, TOKENS), generator=torch.Generator().manual_seed(3))
FORMATS = ("q8_0", "q4_0", "kivi:bits=2,group=4,residual=8", "kivi-code:group=4,residual=8")
MIXED = "kivi:bits=2,group=4,residual=6/transformers:residual=5"


@pytest.fixture
def llama() -> Any:
    """Four query heads on two kv heads, whose attention is far from uniform."""
    model = tiny()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight *= 30
            layer.self_attn.k_proj.weight *= 30
    return model


def run(model: Any, text: str, **more: Any) -> Any:
    """Return what each layer was given, what it put out, and the error that was measured."""
    calls: list[Any] = []

    def note(attend: Any, module: Any, *vectors: Any, **given: Any) -> Any:
        outputs = attend(module, *vectors, **given)
        calls.append((*vectors[:3], outputs[0]))
        return outputs

    with lm.rounding(model, parse_format(text), **more) as rounds:  # noqa: SIM117
        with attention_through(model, note), torch.no_grad():
            model(input_ids=IDS, use_cache=False)
    return calls, rounds


def by_hand(text: str, query: Any, key: Any, value: Any) -> np.ndarray:
    """Attention of a layer, token by token; what is old is rounded anew from all that came."""
    format_, wanted = parse_format(text), np.empty((2, TOKENS, 4, DIM))
    for sequence, token in np.ndindex(2, TOKENS):
        come = token + 1
        held = [x[sequence, :, :come].transpose(0, 1).numpy() for x in (key, value)]
        parts = (format_.key, format_.value)
        old = [
            rounded(part, x.reshape(come, -1)).reshape(x.shape)
            for part, x in zip(parts, held, strict=True)
        ]
        starts = [int(part.quantised(come)) for part in parts]
        for head in range(4):
            own = (x[:, head // 2].tolist() for x in (*held, *old))
            q = query[sequence, head, token].tolist()
            wanted[sequence, token, head] = naive.attention(q, *own, *starts, DIM**-0.5)
    return wanted


@pytest.mark.parametrize("text", [*FORMATS, MIXED, "fp8"])
def test_every_query_sees_what_is_stored_when_it_comes(llama: Any, text: str) -> None:
    calls, _ = run(llama, text)
    assert len(calls) == 2
    for query, key, value, outputs in calls:
        np.testing.assert_allclose(outputs, by_hand(text, query, key, value), atol=1e-5)


@pytest.mark.parametrize("text", [*FORMATS, MIXED])
def test_the_error_is_that_of_the_outputs(llama: Any, text: str) -> None:
    calls, rounds = run(llama, text, first=10)
    errors = []
    for query, key, value, outputs in calls:
        plain = by_hand("kivi:residual=1000", query, key, value)[:, 10:]
        change = np.square(outputs.numpy()[:, 10:] - plain).sum((1, 2, 3))
        errors += (change / np.square(plain).sum((1, 2, 3))).tolist()
    assert rounds.output_error == pytest.approx(np.mean(errors), rel=1e-3)
    assert rounds.output_error > 0


def test_what_never_grows_old_is_not_rounded(llama: Any) -> None:
    dense = lm.perplexity(llama, IDS.numpy())
    with lm.rounding(llama, parse_format(f"kivi:residual={TOKENS}")) as rounds:
        assert lm.perplexity(llama, IDS.numpy()).value == pytest.approx(dense.value, rel=1e-6)
    assert rounds.output_error == pytest.approx(0, abs=1e-12)
    with lm.rounding(llama, parse_format("q4_0"), measures=False) as rounds:
        assert lm.perplexity(llama, IDS.numpy()).value != pytest.approx(dense.value, rel=1e-6)
    assert rounds.output_error is None
    assert lm.perplexity(llama, IDS.numpy()) == dense


def test_softcap_and_windows_hold_for_old_and_new() -> None:
    """With nothing rounded the mixed attention is the model's own."""
    model = tiny("Gemma2Config", head_dim=DIM, sliding_window=5)
    dense = lm.perplexity(model, IDS.numpy())
    with lm.rounding(model, parse_format("kivi:bits=16,group=4,residual=4")):
        assert lm.perplexity(model, IDS.numpy()).value == pytest.approx(dense.value, rel=2e-3)


def test_bad_input_is_refused(llama: Any) -> None:
    with pytest.raises(DipsimError, match="counted, not computed"):
        run(llama, "kivi:bits=2.5")
    with (
        lm.rounding(llama, parse_format("q8_0")),
        pytest.raises(ModelError, match="use_cache=False"),
    ):
        llama.generate(IDS[:1, :3], max_new_tokens=2, do_sample=False)
