"""Do windows of a text begin as the model was taught that texts begin?"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.paths import NEEDS_TORCH, shared

torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
transformers = pytest.importorskip("transformers", reason=NEEDS_TORCH)

from dipsim import lm, load_trace  # noqa: E402
from dipsim.errors import DipsimError  # noqa: E402
from dipsim.lm.text import judged_apart  # noqa: E402
from tools.cli import invoke, refusal  # noqa: E402
from tools.tiny_models import WORDS, saved, tiny  # noqa: E402


def tokenizer(template: str | None = "<s> $A", **special: int) -> Any:
    """A tokenizer of a token a word, which puts what the template says around a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    known = {"<s>": 1, **special}
    made = Tokenizer(models.WordLevel({**WORDS, **known}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if template is not None:
        made.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[*known.items()]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", unk_token="[UNK]"
    )


@pytest.mark.parametrize(
    ("template", "special", "prefixes"),
    [
        ("<s> $A", {}, {"auto": (1,), "always": (1,), "never": ()}),
        ("<s> $A </e>", {"</e>": 60}, {"auto": (1,), "always": (1,), "never": ()}),
        ("<g> <p> $A", {"<g>": 61, "<p>": 62}, {"auto": (61, 62), "always": (61, 62)}),
        (None, {}, {"auto": (), "always": (1,), "never": ()}),
    ],
)
def test_what_stands_before_a_window(
    template: str | None, special: dict[str, int], prefixes: dict[str, tuple[int, ...]]
) -> None:
    made = tokenizer(template, **special)
    assert {bos: lm.prefix_of(made, bos) for bos in prefixes} == prefixes
    with pytest.raises(DipsimError, match="--bos perhaps: give one of auto, always, never"):
        lm.prefix_of(made, "perhaps")


def test_a_tokenizer_without_a_token_of_beginning() -> None:
    made = tokenizer(None)
    made.bos_token = None
    assert lm.prefix_of(made) == ()
    with pytest.raises(DipsimError, match="--bos always: this tokenizer has no token"):
        lm.prefix_of(made, "always")


def test_windows_hold_the_text_behind_their_prefix() -> None:
    ids = np.arange(10, 22)
    rows = [[1, 10, 11, 12], [1, 13, 14, 15], [1, 16, 17, 18]]
    np.testing.assert_array_equal(lm.windows_of(ids, 4, 10, prefix=(1,)), rows)
    np.testing.assert_array_equal(lm.windows_of(ids, 4), ids.reshape(3, 4))
    windows, apart = judged_apart(ids, 4, None, "3:5", prefix=(1,))
    np.testing.assert_array_equal(windows[:, 0], 1)
    np.testing.assert_array_equal(windows[:, 1:], [[10, 11, 12], [15, 16, 17], [18, 19, 20]])
    np.testing.assert_array_equal(apart, [13, 14])
    with pytest.raises(DipsimError, match="--window 2: the tokenizer puts 2 tokens before"):
        lm.windows_of(ids, 2, prefix=(1, 2))


def test_the_case_of_windows_without_a_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    import runpy

    case = runpy.run_path(str(shared("cases/f20.py")))
    ids = lm.read_ids(case["text"], case["tokenizer"])
    windows = lm.windows_of(ids, 16, prefix=lm.prefix_of(case["tokenizer"]))
    assert windows[:3, 0].tolist() == [1, 1, 1]
    assert windows[:, 1:].ravel().tolist() == ids[: windows[:, 1:].size].tolist()


def test_commands_put_it_there_and_take_the_option(tmp_path: Path) -> None:
    folder = saved(tiny(), tmp_path / "m")
    tokenizer().save_pretrained(folder)
    text, out = tmp_path / "t.txt", tmp_path / "t.npz"
    words = [f"w{3 + number % 50}" for number in range(200)]
    text.write_text(" ".join(words))
    read = "--text", text, "--window", "16"
    for more, first, second in (((), 1, 3), (("--bos", "never"), 3, 4)):
        done = invoke("record", folder, out, *read, *more)
        assert done.exit_code == 0, done
        ids = load_trace(out).token_id
        assert ids is not None
        assert ids[:2].tolist() == [first, second]
    assert "--bos is for --text" in refusal(
        "record", folder, out, "--prompt", "w3", "--bos", "auto"
    )
    judge = "eval", folder, *read, "--method", "dense", "--json"
    perplexities = [
        json.loads(invoke(*judge, "--bos", bos).stdout)["rows"][0]["perplexity"]
        for bos in ("auto", "always", "never")
    ]
    assert perplexities[0] == perplexities[1] != perplexities[2]
    windows = lm.windows_of(lm.read_ids(text, tokenizer()), 16, prefix=(1,))
    expected = lm.perplexity(lm.load(folder).model, windows).value
    assert perplexities[0] == pytest.approx(expected, rel=1e-6)
    assert "give one of auto, always, never" in refusal(*judge[:-1], "--bos", "both")
