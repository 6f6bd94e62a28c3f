"""Write and run the examples notebook.

    python docs/tables/notebook.py [FOLDER]     writes examples.ipynb

It goes to docs unless a folder is given. The cells below are its source; what they print and draw
is kept in the notebook. A cell that fails stops this script, and nothing is written.
"""

import contextlib
import sys
import tempfile
from pathlib import Path
from textwrap import dedent

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

DOCS = Path(__file__).resolve().parents[1]

INTRODUCTION = (
    """
    # dipsim in a notebook

    A recorded trace on a described device: how fast is it, where does the time go, and which cache
    is worth having? The words stand with [concepts](concepts.md), the options of `dipsim.simulate`
    are those of `dipsim run`.
    """,
    """
    import numpy as np

    import dipsim
    """,
)
TRACE = (
    """
    ## A trace

    `smollm2-chat` is shipped: 128 tokens of SmolLM2-135M, and for each layer how large the inputs
    of its MLP (`mlp_input`) and its products (`glu`) were. A file or a folder of shards loads the
    same way; so does a dictionary of numpy arrays.
    """,
    """
    trace = dipsim.load_trace("smollm2-chat")
    print(trace.tokens, "tokens,", trace.layers, "layers")
    for name, signal in trace.signals.items():
        print(f"{name}: {signal.recorded_units} units, {signal.encoding}")
    """,
)
RUN = (
    """
    ## A run

    Dynamic Input Pruning that prefers what is in DRAM, on a phone, with DRAM for 80 % of the model.
    A result shows as a card. `marks` say what its figures rest on.
    """,
    """
    result = dipsim.simulate(trace, "snapdragon8", method="dip-ca", dram="80%")
    result
    """,
    """
    assert "open-loop" in result.marks
    assert abs(sum(result.time_share.values()) - 1) < 1e-9
    print(result)
    """,
)
TOKENS = (
    """
    ## Token by token, layer by layer
    """,
    """
    tokens = result.to_frame()
    assert tokens["hits"].sum() == result.hits
    tokens[["accesses", "hits", "flash_bytes", "flash_reads", "latency_ms"]].describe().round(1)
    """,
    """
    result.plot(size=(8, 3.2))
    """,
    """
    layers = result.to_frame("layers")
    hit_rate = layers.pivot(index="layer", columns="group", values="hit_rate")
    hit_rate.describe().loc[["min", "mean", "max"]]
    """,
)
COMPARISON = (
    """
    ## Which policy, and how much DRAM?

    `opt` knows the future: no policy that starts empty hits more. `paper-a18` is the device of the
    DIP paper, whose flash reads 1 GB/s at any size.
    """,
    """
    shares = ["60%", "70%", "80%", "90%"]
    comparison = dipsim.compare(trace, "paper-a18", ["lru", "lfu-decay", "opt"], dram=shares)
    table = comparison.to_frame()
    rates = table.pivot(index="budget", columns="policy", values="tokens_per_second")
    assert (rates["opt"] >= rates["lru"]).all()
    rates.round(1)
    """,
    """
    comparison.plot(size=(7, 3.6))
    """,
)
OWN = (
    """
    ## A policy of your own

    It states an order, in plain functions that numba compiles into the replay: here the units used
    in the last 16 tokens stay, those with the least uses leave first. `touch` is called for every
    active unit, the lowest `rank` leaves. See [writing a policy](writing-a-policy.md).
    """,
    """
    WINDOW = 16


    def state(units, capacity, seed):
        return np.zeros(2 * units, np.int64)  # uses in this window, and when they were counted


    def touch(state, unit, token, hit):
        units = len(state) // 2
        if token - state[units + unit] >= WINDOW:
            state[unit] = 0
        state[unit] += 1
        state[units + unit] = token


    def rank(state, unit, token):
        return state[unit] if token - state[len(state) // 2 + unit] < WINDOW else 0


    recent = dipsim.Policy("recent", "uses in the last tokens", state=state, touch=touch, rank=rank)
    mine = dipsim.simulate(trace, "paper-a18", policy=recent, dram="80%")
    assert mine.accesses == 128 * 30 * (435 + 901)  # tokens, layers, units of both groups
    print(f"{mine.tokens_per_second:.1f} tokens/s, {mine.hit_rate:.1%} of the active bytes hit")
    """,
)
SECTIONS = (INTRODUCTION, TRACE, RUN, TOKENS, COMPARISON, OWN)
"""Each a text, then the code below it."""


def notebook() -> nbformat.NotebookNode:
    """Return the notebook, not yet run."""
    cells = []
    for text, *code in SECTIONS:
        cells.append(nbformat.v4.new_markdown_cell(dedent(text).strip()))
        cells += [nbformat.v4.new_code_cell(dedent(source).strip()) for source in code]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # the same whenever it is written
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def run(book: nbformat.NotebookNode) -> None:
    """Run every cell in a folder of its own, and keep what it prints and draws.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        settings = Config(ConnectionFileMixin={"transport": "ipc"})  # files, no ports
        NotebookClient(book, timeout=600, config=settings).execute()
    del book["metadata"]["language_info"]  # which Python ran it
    for cell in book["cells"]:
        cell["metadata"] = {}  # when it ran


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else DOCS
    book = notebook()
    run(book)
    nbformat.write(book, target / "examples.ipynb")
