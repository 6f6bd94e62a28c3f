"""Calls of the Python interface, good and bad, as a type checker reads them; nothing runs them.

A line that ends in ``# wrong`` must be an error for mypy, and no other line may be one.
"""

from pathlib import Path

import numpy as np

import dipsim

result = dipsim.simulate("t.npz", "snapdragon8", method="dip-ca", gamma=0.5, dram=3.5e9)
dipsim.simulate(Path("t.npz"), Path("p.yaml"), dram="50%", overlap="serial", top_k=2)
dipsim.simulate({"glu": np.ones((3, 2, 8))}, {"name": "p"}, overrides={"flash.bandwidth": "1GB/s"})
dipsim.simulate("t.npz", "p", policy=dipsim.load_policy("lru"), model=dipsim.load_model("m"))
dipsim.simulate("t.npz", "p", drum="50%")  # wrong
dipsim.simulate("t.npz", "p", density="most")  # wrong
dipsim.simulate("t.npz", "p", overlap="some")  # wrong
dipsim.simulate("t.npz", "p", dram=[1])  # wrong
dipsim.simulate("t.npz")  # wrong
dipsim.simulate("t.npz", "p", 50)  # wrong
rate: float = result.tokens_per_second
rows: int = len(result.to_frame("layers"))
result.to_frame("groups")  # wrong
result.plot("p.png", size=(4, 3), dpi=200).savefig("q.png")
result.plot(3)  # wrong

both = dipsim.compare("t.npz", ["p", "q"], ["lru", "opt"], methods=["dip"], dram=["50%", 3e9])
fastest: dipsim.Comparison = dipsim.compare("t.npz", "p", "lru", density=[0.5, 0.7], layout="row")
rows = len(both.to_frame())
both.plot("p.svg", dpi=50).savefig("q.png")
dipsim.compare("t.npz", "p", budgets=[{"dram": "2GB"}])  # wrong
dipsim.compare("t.npz", "p", dram=[None])  # wrong
dipsim.compare("t.npz", "p", layout="heap")  # wrong
dipsim.mrc("t.npz", ["lru", "opt"], [0.5, 0.9], method="dip", tokens="0:64").rates("lru")
dipsim.mrc("t.npz", ["lru"], dram="50%")  # wrong
found = dipsim.search("t.npz", "p", max_loss=0.01, methods=["dip"], policy="lru").to_frame()
dipsim.search("t.npz", "p", axes=("dram", "iops"), points=4).plot()
dipsim.search("t.npz", "p", axes=("dram", "speed"))  # wrong
dipsim.search("t.npz", "p", max_loss=0.01, method="dip")  # wrong
dipsim.study("gamma", "t.npz", ["p", "q"], dram="60%", kv="grow").to_dict()
dipsim.study("gamma", "t.npz", "p", kv="shrinks")  # wrong
lru = dipsim.inspect("t.npz", layers="0:2").signals["glu"].lru
dipsim.inspect("t.npz", dram="2GB")  # wrong
trace: dipsim.Trace = dipsim.import_("acts", "t.npz", names={"glu": "acts"}, model="m")
dipsim.export(trace, Path("u"), signals=["glu"], encodings={"glu": "log8"}, tokens="0:64")
dipsim.export(trace, "u", encodings={"glu": "log9"})  # wrong
dipsim.synth("s.npz", "smollm2-chat", model="m", tokens=64, seed=1).describe()
dipsim.synth("s.npz", tokens="many")  # wrong
tokens = dipsim.record("folder", "r.npz", text="text.txt", window=64).tokens
dipsim.record("folder", "r.npz", words="text.txt")  # wrong
