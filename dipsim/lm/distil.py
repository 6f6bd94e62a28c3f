"""Training an adapter: the model with masks learns to predict what the dense one does.

The loss is the divergence of its predictions from the dense model's, token by token: no text is
learnt, only how to be the dense model again. What was done is kept from time to time, and running
the same again goes on from there.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dipsim.analysis.lora import Recovery
from dipsim.errors import DipsimError, brief
from dipsim.files import read_json, whole_file
from dipsim.lm import lora
from dipsim.lm.load import Loaded
from dipsim.lm.perplexity import perplexity
from dipsim.lm.sparse import Sparse, sparsify
from dipsim.lm.text import windows_of

STATE = "training.safetensors"
"""In the adapter's folder until it is finished."""
_SAVE_EVERY = 10
_WARM_UP = 10
_SECONDS = 60
_MOMENTS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps of every weight, beside its step


@dataclass(frozen=True)
class Recipe:
    """How an adapter is trained and judged."""

    method: str = "dip"
    settings: Mapping[str, Any] = field(default_factory=lambda: {"density": 0.5})
    """Of the method, as `sparsify` takes them."""
    rank: int = 32
    steps: int | None = 200
    minutes: float | None = None
    """Of processor time, in place of steps."""
    rate: float = 1e-3
    """The highest learning rate."""
    batch: int = 1
    """Windows in a step."""
    window: int = 512
    judge_tokens: int = 8192
    """The first tokens of the text, which judge; the rest trains."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "steps", "minutes", "rate", "batch"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise DipsimError(f"{name} {value}: must be above 0")
        if (self.steps is None) == (self.minutes is None):
            raise DipsimError("give either steps or minutes")


def train_adapter(
    loaded: Loaded,
    ids: NDArray[np.int64],
    folder: str | Path,
    recipe: Recipe | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Recovery:
    """Train an adapter, or go on where an earlier call stopped; judge it; keep it in a folder.

    Args:
        ids: int64[tokens] of a text; its first ``judge_tokens`` judge, the rest trains.
        folder: made if it is not there; in the end a normal adapter of peft, with ``dipsim.json``.
        progress: called with (steps done, steps).

    Raises:
        DipsimError: a text too short, a method that does not fit, or a folder that holds something
            else, an adapter of other settings for one.
    """
    recipe = Recipe() if recipe is None else recipe
    judged = windows_of(ids, recipe.window, recipe.judge_tokens, "the text that judges")
    rest = f"the text after the {recipe.judge_tokens} tokens that judge"
    trained = windows_of(ids[recipe.judge_tokens :], recipe.window, None, rest)
    folder = Path(folder)
    about = {
        "model": loaded.name,
        "geometry": loaded.geometry,
        "weights": lora.fingerprint(loaded.model),
        "text": sha256(ids.tobytes()).hexdigest(),
        "recipe": asdict(recipe),
    }
    about = json.loads(json.dumps(about))
    if found := _finished(folder, about):
        return found
    loaded.check_reads(recipe.window)
    run = _Run(loaded, trained, recipe)
    if (folder / STATE).is_file():
        run.restore(folder / STATE, about)
    _make(folder)
    try:
        run.train(lambda: run.keep(folder / STATE, about), progress)
        recovery = run.judge(judged)
        lora.save_adapter(run.student, folder, {**about, "figures": recovery.to_dict()})
        (folder / STATE).unlink(missing_ok=True)
    except OSError as problem:
        raise DipsimError(f"{folder}: cannot be written ({problem.strerror})") from None
    return recovery


def _finished(folder: Path, about: Mapping[str, Any]) -> Recovery | None:
    """The figures of a folder that is finished."""
    if not (folder / lora.ABOUT).is_file():
        return None
    kept = read_json(folder / lora.ABOUT, DipsimError)
    _check_same(folder, kept, about)
    figures = kept.get("figures", {})
    try:
        return Recovery(**{at.name: figures[at.name] for at in fields(Recovery)})
    except (KeyError, TypeError):
        raise DipsimError(f"{folder / lora.ABOUT}: holds no figures: remove the folder") from None


def _check_same(folder: Path, kept: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """That a folder was begun with the same model, text and recipe."""
    before, now = ({**at, **(at.get("recipe") or {})} for at in (kept, about))
    for name in ("weights", "text", *now["recipe"]):
        if before.get(name) != now[name]:
            what = {"weights": "model", "text": "text"}.get(name)
            change = f"another {what}" if what else f"{name} {brief(before.get(name))}"
            instead = "" if what else f", not {brief(now[name])}"
            raise DipsimError(
                f"{folder}: holds an adapter with {change}{instead}: give another folder, or "
                "remove this one"
            )


def _make(folder: Path) -> None:
    if folder.is_dir() and any(at.name != STATE for at in folder.iterdir() if at.name[0] != "."):
        raise DipsimError(f"{folder}: holds something else; give a new folder")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as problem:
        raise DipsimError(f"{folder}: cannot be made ({problem.strerror})") from None


class _Run:
    """A training run: the dense model, the sparse one that learns, and how far it is."""

    def __init__(self, loaded: Loaded, windows: NDArray[np.int64], recipe: Recipe) -> None:
        self.loaded, self.windows, self.recipe = loaded, windows, recipe
        self.teacher = loaded.model
        self.student = lora.add_adapter(
            lora.shared_copy(loaded.model), recipe.rank, loaded.name, recipe.seed
        )
        self.learnt = {name: at for name, at in self.student.named_parameters() if at.requires_grad}
        self.optimiser = torch.optim.AdamW(self.learnt.values(), recipe.rate, weight_decay=0.0)
        self.masks = self._sparse(self.student, reset="sequence")
        self.step, self.cpu, self.wall = 0, 0.0, 0.0

    def train(self, keep: Callable[[], None], progress: Callable[[int, int], None] | None) -> None:
        """Take the steps that are left, and keep the state from time to time."""
        self.student.train()
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        with self.masks, torch.random.fork_rng(devices=[]):
            while self.done < 1:
                self._learn(self._batch())
                self.step += 1
                self.cpu, self.wall = time.process_time() - cpu, time.perf_counter() - wall
                if self.step % _SAVE_EVERY == 0:
                    keep()
                if progress is not None:
                    progress(self.step, max(self.step, round(self.step / self.done)))
        self.student.eval()

    @property
    def done(self) -> float:
        """Share of the steps or the minutes."""
        if self.recipe.steps is not None:
            return self.step / self.recipe.steps
        assert self.recipe.minutes is not None
        return self.cpu / (_SECONDS * self.recipe.minutes)

    def _sparse(self, model: nn.Module, **more: Any) -> Sparse:
        return sparsify(
            model,
            self.recipe.method,
            geometry=self.loaded.geometry,
            calibrate=self.windows[0].tolist(),  # for thresholds
            **{**self.recipe.settings, **more},
        )

    def _batch(self) -> Tensor:
        """int64[batch, window]: all windows in a new order, again and again."""
        first, count = self.step * self.recipe.batch, len(self.windows)
        rows = []
        for at in range(first, first + self.recipe.batch):
            order = np.random.default_rng([self.recipe.seed, at // count]).permutation(count)
            rows.append(order[at % count])
        return torch.from_numpy(self.windows[rows])

    def _learn(self, ids: Tensor) -> None:
        warm = min(1.0, (self.step + 1) / _WARM_UP)
        rate = self.recipe.rate * warm * (1 + math.cos(math.pi * self.done)) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        torch.manual_seed(self.recipe.seed + self.step)  # of dropout, where a model has it
        device = next(self.student.parameters()).device
        given = {"input_ids": ids.to(device), "use_cache": False}
        with torch.autocast(device.type, torch.bfloat16, enabled=_has_bfloat16(device)):
            with torch.no_grad():
                wanted = self.teacher(**given).logits
            found = self.student(**given).logits
        divergence(found, wanted).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.learnt.values(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()

    def keep(self, path: Path, about: Mapping[str, Any]) -> None:
        """Write all that going on needs."""
        tensors = {f"adapter.{name}": at.detach() for name, at in self.learnt.items()}
        for name, at in self.learnt.items():
            tensors |= {f"{key}.{name}": it for key, it in self.optimiser.state[at].items()}
        so_far = {"step": self.step, "cpu": self.cpu, "wall": self.wall}
        note = {"about": json.dumps(about), "so_far": json.dumps(so_far)}
        with whole_file(path) as handle:
            handle.write(safetensors.torch.save(tensors, note))

    def restore(self, path: Path, about: Mapping[str, Any]) -> None:
        """Take up what `keep` wrote.

        Raises:
            DipsimError: it was begun with other settings, or is damaged.
        """
        try:
            with safetensors.safe_open(path, "pt") as file:
                note = file.metadata()
                kept, so_far = json.loads(note["about"]), json.loads(note["so_far"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception as problem:
            raise DipsimError(f"{path}: damaged ({brief(problem)}); remove the folder") from None
        _check_same(path.parent, kept, about)
        try:
            for name, at in self.learnt.items():
                at.data.copy_(tensors[f"adapter.{name}"].reshape_as(at))
                moments = {key: tensors[f"{key}.{name}"].reshape_as(at) for key in _MOMENTS}
                self.optimiser.state[at] = {"step": tensors[f"step.{name}"], **moments}
        except (KeyError, RuntimeError):
            raise DipsimError(f"{path}: damaged (lacks weights); remove the folder") from None
        self.step, self.cpu, self.wall = so_far["step"], so_far["cpu"], so_far["wall"]

    def judge(self, windows: NDArray[np.int64]) -> Recovery:
        """The four perplexities, and what it took."""
        dense, masks_off = perplexity(self.teacher, windows), perplexity(self.student, windows)
        with self._sparse(self.student):
            adapted = perplexity(self.student, windows)
        plain = lora.shared_copy(self.teacher)
        with self._sparse(plain):
            sparse = perplexity(plain, windows)
        kept = lora.adapter_weights(self.student).values()
        return Recovery(
            model=self.loaded.name,
            dense=dense.value,
            sparse=sparse.value,
            adapted=adapted.value,
            masks_off=masks_off.value,
            judged_tokens=windows.size,
            trained_tokens=self.step * self.recipe.batch * self.recipe.window,
            steps=self.step,
            cpu_minutes=self.cpu / _SECONDS,
            wall_minutes=self.wall / _SECONDS,
            adapter_parameters=sum(at.numel() for at in kept),
            adapter_bytes=sum(at.nbytes for at in kept),
            model_bytes=sum(at.nbytes for at in self.teacher.parameters()),
        )


def divergence(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of predictions from the wanted ones, in nats per token.

    Args:
        found, wanted: float[..., vocabulary] logits.
    """
    one, other = (at.float().log_softmax(-1).flatten(0, -2) for at in (found, wanted))
    return nn.functional.kl_div(one, other, reduction="batchmean", log_target=True)


def _has_bfloat16(device: torch.device) -> bool:
    """Whether half the bytes run faster there: twice as fast where they do, slower elsewhere."""
    if device.type != "cpu":
        return True
    can = torch.cpu.get_capabilities()
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))
