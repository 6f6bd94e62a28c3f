"""Weight formats: how they are spelt, what bits they have, which rate they take."""

import pytest

import dipsim
from dipsim.errors import DipsimError, ModelError
from dipsim.model import FORMAT_BITS, nearest_format, weight_format
from tools.one_layer import TINY, device


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qwen3-8B-Q4_K_M.gguf", "q4_k"),
        ("/models/llama-3.2-1b-instruct-q4_k_s.gguf", "q4_k"),
        ("q4_0", "q4_0"),
        ("Q4_0_4_8", "q4_0"),
        ("Q8_0", "q8_0"),
        ("Q6_K", "q6_k"),
        ("F16", "f16"),
        ("fp16", "f16"),
        ("float16", "f16"),
        ("BF16", "bf16"),
        ("bfloat16", "bf16"),
        ("8da4w", "8da4w"),
        ("llama_8DA4W.pte", "8da4w"),
        ("MXFP4", "mxfp4"),
        ("gpt-oss-20b-mxfp4", "mxfp4"),
        ("int4", "int4"),
        ("coreml_4bit", "coreml_4bit"),
        ("nonsense", None),
        ("", None),
        ("Qwen3-8B", None),
        ("w40", None),
        ("sq4_0", None),
        ("int48", None),
        ("\x00" * 1000, None),
    ],
)
def test_spellings(text: str, expected: str | None) -> None:
    assert weight_format(text) == expected


@pytest.mark.parametrize("name", FORMAT_BITS)
def test_a_format_is_itself_and_gives_its_bits(name: str) -> None:
    assert weight_format(name) == weight_format(name.upper()) == name
    model = dipsim.load_model("llama-3.2-1b", stored_as=name)
    assert (model.bits, model.stored_as) == (FORMAT_BITS[name], name)
    other = dipsim.load_model("llama-3.2-1b", bits=5, stored_as=name)
    assert (other.bits, other.stored_as) == (5, name)


def test_a_format_of_unknown_bits_needs_them() -> None:
    with pytest.raises(ModelError, match="--weight-format q3_x: its bits are not known") as told:
        dipsim.load_model("llama-3.2-1b", stored_as="q3_x")
    assert "\n" not in str(told.value)
    own = dipsim.load_model("llama-3.2-1b", bits=3.5, stored_as="q3_x")
    assert (own.bits, own.stored_as) == (3.5, "q3_x")
    for hostile in ("x" * 10_000, "", "a\nb"):
        with pytest.raises(DipsimError) as refusal:
            dipsim.load_model("llama-3.2-1b", stored_as=hostile)
        assert len(str(refusal.value).splitlines()) == 1
        assert len(str(refusal.value)) < 400


def test_the_nearest_format_is_within_an_eighth() -> None:
    known = {"q4_0": 1.0, "q8_0": 1.0, "own": 1.0}
    assert nearest_format(4.5, known) == "q4_0"
    assert nearest_format(4.1, known) == "q4_0"
    assert nearest_format(4.0, known) == "q4_0"  # 12.5 % fewer
    assert nearest_format(3.9, known) is None
    assert nearest_format(8.0, known) == "q8_0"
    assert nearest_format(16, known) is None
    assert nearest_format(4.5, {"own": 1.0}) is None
    assert nearest_format(4.5, {"8da4w": 1.0, "q4_0": 1.0}) == "8da4w"  # the first of equals


def test_the_format_decides_the_rate() -> None:
    # One byte a weight: 152 B of static weights and 96 B of neurons.
    phone = device(gemv={"q4_0": "10 B/s", "int8": "50 B/s", "q8_0": "62 B/s"})

    def took(**options: object) -> float:
        run = dipsim.simulate(
            None, phone, model=TINY, method="dense", cache_fraction=1.0, **options
        )
        return float(run.timing.times.latency[0])

    assert took(bits=8, weight_format="q8_0") == pytest.approx(248 / 62)
    assert took(bits=8, weight_format="Q4_0") == pytest.approx(248 / 10)
    assert took() == pytest.approx(248 / 50)  # of the entries, int8 is nearest
    assert took(bits=8, weight_format="w2") == pytest.approx(248 / 100)  # none: DRAM
