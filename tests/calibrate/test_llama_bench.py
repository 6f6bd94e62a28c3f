"""llama-bench: published outputs read to the figure, each form, and rows that tell no rate."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.calibrate.benchmarks import read_benchmarks
from dipsim.calibrate.measured import Measurements, Rate
from dipsim.errors import DipsimError
from tools.benchmarks import llama_bench

# Published outputs, retyped: the README of llama-bench at build 5163 (JSON, CSV) and 1275 (JSON
# lines, SQL), pull requests 14987 and 10693 of llama.cpp (tables of two phones).
_QWEN = {
    "build_commit": "8cf427ff",
    "build_number": 5163,
    "cpu_info": "AMD Ryzen 7 7800X3D 8-Core Processor",
    "gpu_info": "NVIDIA GeForce RTX 4080",
    "backends": "CUDA",
    "model_filename": "models/Qwen2.5-7B-Instruct-Q4_K_M.gguf",
    "model_type": "qwen2 7B Q4_K - Medium",
    "model_size": 4677120000,
    "model_n_params": 7615616512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_threads": 8,
    "cpu_mask": "0x0",
    "cpu_strict": False,
    "poll": 50,
    "type_k": "f16",
    "type_v": "f16",
    "n_gpu_layers": 99,
    "split_mode": "layer",
    "main_gpu": 0,
    "no_kv_offload": False,
    "flash_attn": False,
    "tensor_split": "0.00",
    "use_mmap": True,
    "embeddings": False,
}
_PP = {"n_prompt": 512, "n_gen": 0, "n_depth": 0, "test_time": "2025-04-24T11:58:50Z"}
_TG = {"n_prompt": 0, "n_gen": 128, "n_depth": 0, "test_time": "2025-04-24T11:58:51Z"}
_README_JSON: list[dict[str, Any]] = [
    {**_QWEN, **_PP, "avg_ns": 72135640, "stddev_ns": 1453752, "avg_ts": 7100.002165}
    | {"stddev_ts": 140.341520, "samples_ts": [6863.1, 7147.55, 7136.37, 7115.79, 7237.21]},
    {**_QWEN, **_TG, "avg_ns": 1076767880, "stddev_ns": 9449585, "avg_ts": 118.881588}
    | {"stddev_ts": 1.041811, "samples_ts": [119.03, 120.178, 119.43, 118.307, 117.464]},
]
_README_CSV = """\
build_commit,build_number,cpu_info,gpu_info,backends,model_filename,model_type,model_size,\
model_n_params,n_batch,n_ubatch,n_threads,cpu_mask,cpu_strict,poll,type_k,type_v,n_gpu_layers,\
split_mode,main_gpu,no_kv_offload,flash_attn,tensor_split,use_mmap,embeddings,n_prompt,n_gen,\
n_depth,test_time,avg_ns,stddev_ns,avg_ts,stddev_ts
"8cf427ff","5163","AMD Ryzen 7 7800X3D 8-Core Processor","NVIDIA GeForce RTX 4080","CUDA",\
"models/Qwen2.5-7B-Instruct-Q4_K_M.gguf","qwen2 7B Q4_K - Medium","4677120000","7615616512",\
"2048","512","8","0x0","0","50","f16","f16","99","layer","0","0","0","0.00","1","0","512","0","0",\
"2025-04-24T11:57:09Z","70285660","982040","7285.676949","100.064434"
"8cf427ff","5163","AMD Ryzen 7 7800X3D 8-Core Processor","NVIDIA GeForce RTX 4080","CUDA",\
"models/Qwen2.5-7B-Instruct-Q4_K_M.gguf","qwen2 7B Q4_K - Medium","4677120000","7615616512",\
"2048","512","8","0x0","0","50","f16","f16","99","layer","0","0","0","0.00","1","0","0","128","0",\
"2025-04-24T11:57:10Z","1067431600","3834831","119.915244","0.430617"
"""
_I9 = {
    "build_commit": "3469684",
    "build_number": 1275,
    "cuda": True,
    "metal": False,
    "gpu_blas": True,
    "blas": True,
    "cpu_info": "13th Gen Intel(R) Core(TM) i9-13900K",
    "gpu_info": "NVIDIA GeForce RTX 3090 Ti",
    "model_filename": "models/7B/ggml-model-q4_0.gguf",
    "model_type": "llama 7B mostly Q4_0",
    "model_size": 3825065984,
    "model_n_params": 6738415616,
    "n_batch": 512,
    "n_threads": 16,
    "f16_kv": True,
    "n_gpu_layers": 99,
    "main_gpu": 0,
    "mul_mat_q": True,
    "tensor_split": "0.00",
}
_OLD_LINES: list[dict[str, Any]] = [
    {**_I9, "n_prompt": 512, "n_gen": 0, "test_time": "2023-09-23T12:09:57Z"}
    | {"avg_ns": 212365953, "avg_ts": 2410.974041, "stddev_ts": 11.163766},
    {**_I9, "n_prompt": 0, "n_gen": 128, "test_time": "2023-09-23T12:09:59Z"}
    | {"avg_ns": 977425219, "avg_ts": 130.965708, "stddev_ts": 1.238924},
]
_OLD_SQL = """\
CREATE TABLE IF NOT EXISTS test (
  build_commit TEXT,
  avg_ts REAL
);

INSERT INTO test (build_commit, build_number, cuda, opencl, metal, gpu_blas, blas, cpu_info, \
gpu_info, model_filename, model_type, model_size, model_n_params, n_batch, n_threads, f16_kv, \
n_gpu_layers, main_gpu, mul_mat_q, tensor_split, n_prompt, n_gen, test_time, avg_ns, stddev_ns, \
avg_ts, stddev_ts) VALUES ('3469684', '1275', '1', '0', '0', '1', '1', \
'13th Gen Intel(R) Core(TM) i9-13900K', 'NVIDIA GeForce RTX 3090 Ti', \
'models/7B/ggml-model-q4_0.gguf', 'llama 7B mostly Q4_0', '3825065984', '6738415616', '512', '16', \
'1', '99', '0', '1', '0.00', '512', '0', '2023-09-23T12:10:30Z', '212693772', '743623', \
'2407.240204', '8.409634');
"""
_ADRENO_830 = """\
ggml_opencl: selecting platform: 'QUALCOMM Snapdragon(TM)'
| model                          |       size |     params | backend    | ngl | fa |            test |                  t/s |
| ------------------------------ | ---------: | ---------: | ---------- | --: | -: | --------------: | -------------------: |
| llama 1B F16                   |   2.30 GiB |     1.24 B | OpenCL     |  99 |  0 |           pp512 |        198.69 ± 0.59 |
| llama 1B F16                   |   2.30 GiB |     1.24 B | OpenCL     |  99 |  0 |           tg128 |         21.88 ± 0.85 |
| llama 1B F16                   |   2.30 GiB |     1.24 B | OpenCL     |  99 |  1 |           pp512 |        274.75 ± 1.22 |
| llama 1B F16                   |   2.30 GiB |     1.24 B | OpenCL     |  99 |  1 |           tg128 |         21.58 ± 0.39 |
"""  # noqa: E501
_REDMI_K70 = """\
| model                          |       size |     params | backend    | ngl | threads |          test |                  t/s |
| ------------------------------ | ---------: | ---------: | ---------- | --: | ------: | ------------: | -------------------: |
| qwen2 1B Q4_0                  | 330.17 MiB |   494.03 M | OpenCL     |  99 |       4 |         pp512 |        212.38 ± 0.40 |
"""  # noqa: E501


def text_of(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, indent=2)


def lines_of(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(folder: Path, text: str, name: str = "bench.txt") -> Measurements:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_benchmarks([str(path)])


def only(found: Measurements) -> Rate:
    (rate,) = found.rates
    return rate


# Published outputs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "figures", "first_day", "build"),
    [
        (
            text_of(_README_JSON),
            [(512, 0, 7100.002165, 140.341520), (None, 64, 118.881588, 1.041811)],
            "2025-04-24",
            "build 8cf427ff",
        ),
        (
            _README_CSV,
            [(512, 0, 7285.676949, 100.064434), (None, 64, 119.915244, 0.430617)],
            "2025-04-24",
            "build 8cf427ff",
        ),
        (
            lines_of(_OLD_LINES),
            [(512, 0, 2410.974041, 11.163766), (None, 64, 130.965708, 1.238924)],
            "2023-09-23",
            "build 3469684",
        ),
        (_OLD_SQL, [(512, 0, 2407.240204, 8.409634)], "2023-09-23", "build 3469684"),
        (
            _ADRENO_830,
            [
                (512, 0, 198.69, 0.59),
                (None, 64, 21.88, 0.85),
                (512, 0, 274.75, 1.22),
                (None, 64, 21.58, 0.39),
            ],
            "",
            "",
        ),
        (_REDMI_K70, [(512, 0, 212.38, 0.40)], "", ""),
    ],
    ids=["json", "csv", "jsonl", "sql", "markdown", "markdown-mib"],
)
def test_published_outputs_are_read_to_the_figure(
    tmp_path: Path, text: str, figures: list[tuple[int | None, int, float, float]],
    first_day: str, build: str,
) -> None:  # fmt: skip
    found = read(tmp_path, text)
    told = [(rate.case.prompt, rate.case.depth, rate.value, rate.deviation) for rate in found.rates]
    assert told == figures
    assert found.refused == ()
    assert {(rate.origin.date, rate.origin.command) for rate in found.rates} == {(first_day, build)}
    kinds = {"prefill" if prompt else "decode" for prompt, *_ in figures}
    assert {rate.case.kind for rate in found.rates} == kinds


def test_what_was_run_is_read(tmp_path: Path) -> None:
    new = read(tmp_path, text_of(_README_JSON)).rates[1]
    assert (new.case.model, new.model_file) == ("Qwen2.5-7B-Instruct-Q4_K_M.gguf",) * 2
    assert (new.case.weight_format, new.case.model_bytes) == ("q4_k", 4677120000)
    assert (new.case.engine, new.case.backend, new.threads) == ("llama.cpp CUDA", "gpu", None)
    assert (new.parameters, new.kv_bits, new.settings) == (7615616512, 16.0, "")
    old = read(tmp_path, lines_of(_OLD_LINES)).rates[0]
    assert (old.case.model, old.case.weight_format) == ("llama 7B mostly Q4_0", "q4_0")
    assert (old.case.engine, old.settings) == ("llama.cpp CUDA", "b 512")
    phone = read(tmp_path, _ADRENO_830)
    assert [rate.settings for rate in phone.rates] == ["", "", "fa 1", "fa 1"]
    assert {rate.case.engine for rate in phone.rates} == {"llama.cpp OpenCL"}
    assert phone.rates[0].case.model_bytes == 2.30 * 2**30
    assert phone.rates[0].case.weight_format == "f16"
    small = only(read(tmp_path, _REDMI_K70))
    assert (small.case.model_bytes, small.parameters) == (330.17 * 2**20, 494.03e6)


def test_devices_are_told(tmp_path: Path) -> None:
    found = read(tmp_path, text_of(_README_JSON))
    assert [name for name, _ in found.devices] == ["AMD Ryzen 7 7800X3D 8-Core Processor"]


# All forms ----------------------------------------------------------------------------------------


def facts(**changes: Any) -> dict[str, Any]:
    return {
        "model_filename": "/data/Llama-3.2-1B-Instruct-Q4_0.gguf",
        "model_type": "llama 1B Q4_0",
        "model_size": 770_928_640,
        "model_n_params": 1_235_814_432,
        "n_gen": 128,
        "rate": 40.0,
        **changes,
    }


@pytest.mark.parametrize("how", ["json", "jsonl", "csv", "md"])
def test_every_form_tells_the_same(tmp_path: Path, how: str) -> None:
    rows = [
        facts(),
        facts(n_gen=64, n_depth=4096, rate=21.5),
        facts(n_gen=0, n_prompt=512, rate=180.0),
        facts(n_threads=2, rate=25.0),
        facts(type_k="q8_0", type_v="f16", rate=38.0),
    ]
    found = read(tmp_path, llama_bench(rows, how, 0.01, np.random.default_rng(3)))
    told = [(rate.case.kind, rate.case.depth, rate.threads) for rate in found.rates]
    assert told == [
        ("decode", 64, 4),
        ("decode", 4128, 4),
        ("prefill", 0, 4),
        ("decode", 64, 2),
        ("decode", 64, 4),
    ]
    rates = [rate.value for rate in found.rates]
    assert rates == pytest.approx([40.0, 21.5, 180.0, 25.0, 38.0], rel=0.02)
    assert rates != [40.0, 21.5, 180.0, 25.0, 38.0]
    assert all(rate.deviation is not None and 0 < rate.deviation < 5 for rate in found.rates)
    assert {(rate.case.engine, rate.case.backend) for rate in found.rates} == {("llama.cpp", "cpu")}
    size = found.rates[0].case.model_bytes
    assert size == pytest.approx(770_928_640, rel=1e-4)
    assert found.refused == ()
    assert {rate.origin.command for rate in found.rates} == {"build 5d5ab1e0"}


@pytest.mark.parametrize("how", ["json", "jsonl", "csv", "md"])
def test_lines_around_it_and_other_line_ends_are_passed_over(tmp_path: Path, how: str) -> None:
    text = llama_bench([facts(), facts(n_gen=0, n_prompt=64)], how)
    noisy = f"$ ./llama-bench\nload_backend: loaded [CPU]\n{text}\nwarning: hot\n"
    assert len(read(tmp_path, noisy).rates) == 2
    path = tmp_path / "windows.txt"
    path.write_bytes(("\ufeff" + text.replace("\n", "\r\n")).encode())
    assert len(read_benchmarks([str(path)]).rates) == 2
    path.write_bytes(text.replace("\n", "\r\n").encode("utf-16"))
    assert len(read_benchmarks([str(path)]).rates) == 2


# Units --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "engine", "unit"),
    [
        ({"backends": "CPU"}, "llama.cpp", "cpu"),
        ({"backends": "BLAS"}, "llama.cpp", "cpu"),
        ({"backends": "OpenCL"}, "llama.cpp OpenCL", "gpu"),
        ({"backends": "OpenCL", "n_gpu_layers": -1}, "llama.cpp OpenCL", "gpu"),
        ({"backends": "Vulkan", "n_gpu_layers": 17}, "llama.cpp Vulkan", "gpu"),
        ({"backends": "Metal,BLAS"}, "llama.cpp Metal", "gpu"),
        ({"backends": "MTL,BLAS"}, "llama.cpp Metal", "gpu"),
        ({"backends": "HTP"}, "llama.cpp HTP", "npu"),
        ({"backends": "OpenCL,HTP", "devices": "HTP0"}, "llama.cpp HTP", "npu"),
        ({"backends": "OpenCL,HTP", "devices": "GPUOpenCL"}, "llama.cpp OpenCL", "gpu"),
        ({"backends": "OpenCL,HTP", "devices": "none"}, "llama.cpp", "cpu"),
        ({"backends": "OpenCL", "n_gpu_layers": 0}, "llama.cpp", "cpu"),
        ({"backends": "CUDA", "n_gpu_layers": 0}, "llama.cpp", "cpu"),
    ],
)
def test_units(tmp_path: Path, changes: dict[str, Any], engine: str, unit: str) -> None:
    case = only(read(tmp_path, llama_bench([facts(**changes)]))).case
    assert (case.engine, case.backend) == (engine, unit)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"n_prompt": 512}, "give -p and -n, not -pg"),
        ({"n_prompt": 512, "n_gen": 0, "n_depth": 1024}, "a prompt after other text"),
        ({"n_gen": 0}, "give -p and -n"),
        ({"backends": "OpenCL", "n_gpu_layers": 10}, "-ngl 10 may split the model"),
        ({"backends": "OpenCL", "n_gpu_layers": 16}, "-ngl 16 may split the model"),
        (
            {"backends": "OpenCL", "n_gpu_layers": 33, "model_filename": "mine.gguf"},
            "-ngl 33 may split the model",
        ),
        ({"backends": "OpenCL,HTP"}, "opencl and htp: not told which of them ran"),
        ({"backends": "RPC"}, "backend rpc is none"),
        ({"backends": "CUDA", "n_gpu_layers": 0, "n_gen": 0, "n_prompt": 512}, "give -nopo 1"),
        ({"backends": "CUDA", "n_cpu_moe": 4}, "two units share the work"),
        ({"backends": "CUDA", "no_kv_offload": True}, "two units share the work"),
        ({"backends": "CUDA", "tensor_buft_overrides": "exps=CPU"}, "placed by -ot"),
        ({"type_k": "q9"}, "keys and values of type"),
        ({"model_filename": "", "model_type": ""}, "no model_filename"),
        ({"n_gen": 2.5}, "n_gen is 2.5, not a whole number"),
    ],
)
def test_rows_that_tell_no_rate_are_refused_and_others_kept(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    rows = [facts(**changes), facts(n_threads=1, backends="CPU", rate=12.0)]
    found = read(tmp_path, llama_bench(rows))
    assert only(found).value == pytest.approx(12.0)
    (sentence,) = found.refused
    assert sentence.startswith("bench.txt: row 1: ")
    assert told in sentence


def test_rows_refused_for_one_reason_are_one_sentence(tmp_path: Path) -> None:
    rows = [facts(n_prompt=size) for size in range(1, 9)]
    with pytest.raises(DipsimError, match=r"row 1, row 2, row 3 and 5 more: a prompt and"):
        read(tmp_path, llama_bench(rows))


@pytest.mark.parametrize("rate", [0.0, -3.0, 1e300, None, "40", True, [40.0]])
def test_rates_that_are_none(tmp_path: Path, rate: Any) -> None:
    rows = json.loads(llama_bench([facts()]))
    rows[0]["avg_ts"] = rate
    with pytest.raises(DipsimError, match=r"bench.txt: row 1: avg_ts is .*, not a number from"):
        read(tmp_path, json.dumps(rows, indent=1))


@pytest.mark.parametrize("key", ["cpu_info", "gpu_info"])
def test_two_devices_in_a_file_are_refused(tmp_path: Path, key: str) -> None:
    rows = [facts(**{key: "Oryon"}), facts(**{key: "Cortex"})]
    with pytest.raises(DipsimError, match="measurements of Oryon and of Cortex in one file"):
        read(tmp_path, llama_bench(rows))


# Agreement ----------------------------------------------------------------------------------------


def test_contradictions_are_told_and_neither_is_kept(tmp_path: Path) -> None:
    first, second = tmp_path / "one.json", tmp_path / "two.csv"
    first.write_text(llama_bench([facts(), facts(n_threads=2, rate=30.0)]))
    second.write_text(llama_bench([facts(rate=61.0), facts(n_threads=2, rate=44.0)], "csv"))
    found = read_benchmarks([str(first), str(second)])
    assert [rate.value for rate in found.rates] == pytest.approx([30.0, 44.0])
    (sentence,) = found.refused
    assert "one.json and two.csv: decode of Llama-3.2-1B-Instruct-Q4_0.gguf measured" in sentence
    assert "2 times, from 40 to 61 tokens/s" in sentence
    assert "none is kept" in sentence


def test_other_settings_are_other_work(tmp_path: Path) -> None:
    rows = [facts(), facts(flash_attn=True, rate=99.0), facts(n_threads=1, rate=11.0)]
    assert len(read(tmp_path, llama_bench(rows)).rates) == 3
