"""Distillation of an adapter: the model with masks learns to predict as the dense one does.

The loss is the divergence of its predictions from the dense model's, token by token, so the text
itself is not learnt. The state of training is saved from time to time, and the same call made again
goes on from there.
"""

import json
import math
import os
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
from pydantic import BaseModel, Field, TypeAdapter
from torch import Tensor, nn

from dipsim.analysis.lora import Recovery
from dipsim.errors import DipsimError, brief
from dipsim.files import read_json, unwritable, whole_file
from dipsim.lm import lora
from dipsim.lm.load import Loaded
from dipsim.lm.perplexity import perplexity
from dipsim.lm.sparse import Sparse, sparsify
from dipsim.lm.text import windows_of
from dipsim.option import flag

STATE = "training.safetensors"
"""File of the training state, in the adapter's folder until training is finished."""
_SAVE_EVERY = 10
_WARM_UP = 10
_SECONDS = 60
_RANGES: dict[str, tuple[float, float]] = {
    "rank": (1, lora.MOST_RANK),
    "steps": (1, 10**7),
    "minutes": (1e-5, 10**5),
    "rate": (1e-9, 10),
    "batch": (1, 2**12),
    "window": (2, 2**22),
    "judge_tokens": (1, 2**32),
    "seed": (0, 2**40),
}
_MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's state of every weight, beside its step


@dataclass(frozen=True)
class Recipe:
    """Settings of the training of an adapter, and of its evaluation.

    Raises:
        DipsimError: a number outside its range, or not exactly one of steps and minutes.
    """

    method: str = "dip"
    settings: Mapping[str, Any] = field(default_factory=lambda: {"density": 0.5})
    """Settings of the method, in the form `sparsify` takes."""
    rank: int = 32
    steps: int | None = 200
    minutes: float | None = None
    """Minutes of processor time, in place of steps."""
    rate: float = 1e-3
    """Highest learning rate."""
    batch: int = 1
    """Windows per step."""
    window: int = 512
    """Tokens per window."""
    prefix: tuple[int, ...] = ()
    """Token ids that every window begins with, of `prefix_of`."""
    judge_tokens: int = 8192
    """Tokens at the start of the text that judge; the others train."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise DipsimError(f"{flag(name)} {value}: from {least} to {most}")
        if (self.steps is None) == (self.minutes is None):
            raise DipsimError("give either steps or minutes")


def train_adapter(
    loaded: Loaded,
    ids: NDArray[np.int64],
    folder: str | Path,
    recipe: Recipe | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Recovery:
    """Train an adapter or continue an earlier call, judge the adapter, and save it in a folder.

    Args:
        loaded: the dense model.
        ids: int64[tokens] of a text; its first ``judge_tokens`` judge, the others train.
        folder: made if missing; in the end a normal adapter of peft, with ``dipsim.json``.
        recipe: settings; default: `Recipe()`.
        progress: called with (steps done, steps).

    Raises:
        DipsimError: a text too short, a method that does not fit, or a folder that holds other
            files, such as an adapter of other settings.
    """
    recipe = Recipe() if recipe is None else recipe
    judged = windows_of(
        ids, recipe.window, recipe.judge_tokens, "the text that judges", recipe.prefix
    )
    rest = f"the text after the {recipe.judge_tokens} tokens that judge"
    trained = windows_of(ids[recipe.judge_tokens :], recipe.window, None, rest, recipe.prefix)
    folder = Path(folder)
    about = {
        "model": loaded.name,
        "geometry": loaded.geometry,
        "weights": lora.fingerprint(loaded.model),
        "text": sha256(ids.tobytes()).hexdigest(),
        "recipe": {key: value for key, value in asdict(recipe).items() if value != ()},
    }
    about = json.loads(json.dumps(about))
    if finished := _finished(folder, about):
        return finished
    loaded.check_reads(recipe.window)
    run = _Training(loaded, trained, recipe)
    if os.path.isfile(folder / STATE):
        run.restore(folder / STATE, about)
    _make(folder)
    try:
        run.train(lambda: run.keep(folder / STATE, about), progress)
        recovery = run.judge(judged)
        lora.save_adapter(run.student, folder, {**about, "figures": recovery.to_dict()})
        (folder / STATE).unlink(missing_ok=True)
    except OSError as problem:
        raise unwritable(folder, problem) from None
    return recovery


def _finished(folder: Path, about: Mapping[str, Any]) -> Recovery | None:
    """Return the figures of a folder in which training is finished, else None."""
    if not os.path.isfile(folder / lora.ABOUT):
        return None
    kept = read_json(folder / lora.ABOUT, DipsimError)
    _check_same(folder, kept, about)
    figures = kept.get("figures", {})
    try:
        known = {figure.name: figures[figure.name] for figure in fields(Recovery)}
        recovery = TypeAdapter(Recovery).validate_python(known)
        json.dumps(recovery.to_dict(), allow_nan=False)
    except (KeyError, TypeError, ValueError):  # not there, of another kind, or not finite
        raise DipsimError(f"{folder / lora.ABOUT}: holds no figures: remove the folder") from None
    return recovery


def _check_same(folder: Path, kept: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Check that a folder was begun with the same model, text and recipe."""
    recipe = kept.get("recipe")
    before = {**kept, **(recipe if isinstance(recipe, dict) else {})}
    now = {**about, **about["recipe"]}
    for name in ("weights", "text", *about["recipe"]):
        if before.get(name) != now[name]:
            what = {"weights": "model", "text": "text"}.get(name)
            change = f"another {what}" if what else f"{name} {brief(before.get(name))}"
            instead = "" if what else f", not {brief(now[name])}"
            raise DipsimError(
                f"{folder}: holds an adapter with {change}{instead}: give another folder, or "
                "remove this one"
            )


def _make(folder: Path) -> None:
    """Make the folder; it may exist if it holds nothing but the training state."""
    if folder.is_dir() and any(p.name != STATE for p in folder.iterdir() if p.name[0] != "."):
        raise DipsimError(f"{folder}: holds something else; give a new folder")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as problem:
        raise DipsimError(f"{folder}: cannot be made ({problem.strerror})") from None


class _SoFar(BaseModel):
    """Steps and seconds of a training that is not finished."""

    step: int = Field(ge=0, le=_RANGES["steps"][1])
    cpu: float = Field(ge=0, le=1e9)
    wall: float = Field(ge=0, le=1e9)


class _Training:
    """A training run: the dense teacher, the sparse student, and the steps and times so far."""

    def __init__(self, loaded: Loaded, windows: NDArray[np.int64], recipe: Recipe) -> None:
        self.loaded, self.windows, self.recipe = loaded, windows, recipe
        self.teacher = loaded.model
        self.student = lora.add_adapter(
            lora.shared_copy(loaded.model), recipe.rank, loaded.name, recipe.seed
        )
        self.learnt = {
            name: weight for name, weight in self.student.named_parameters() if weight.requires_grad
        }
        self.optimiser = torch.optim.AdamW(self.learnt.values(), recipe.rate, weight_decay=0.0)
        self.masks = self._sparse(self.student, reset="sequence")
        self.step, self.cpu, self.wall = 0, 0.0, 0.0

    def train(self, keep: Callable[[], None], progress: Callable[[int, int], None] | None) -> None:
        """Take the remaining steps, and save the state from time to time."""
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
        """Share of the steps or minutes that is done, 0 to 1."""
        if self.recipe.steps is not None:
            return self.step / self.recipe.steps
        assert self.recipe.minutes is not None
        return self.cpu / (_SECONDS * self.recipe.minutes)

    def _sparse(self, model: nn.Module, **more: Any) -> Sparse:
        return sparsify(
            model,
            self.recipe.method,
            geometry=self.loaded.geometry,
            calibrate=self.windows[0].tolist(),  # thresholds need calibration tokens
            **{**self.recipe.settings, **more},
        )

    def _batch(self) -> Tensor:
        """Return int64[batch, window]: every pass takes all windows in a new random order."""
        first, count = self.step * self.recipe.batch, len(self.windows)
        rows = []
        for i in range(first, first + self.recipe.batch):
            order = np.random.default_rng([self.recipe.seed, i // count]).permutation(count)
            rows.append(order[i % count])
        return torch.from_numpy(self.windows[rows])

    def _learn(self, ids: Tensor) -> None:
        """Take one step of AdamW; the rate warms up, then falls as a cosine."""
        warm = min(1.0, (self.step + 1) / _WARM_UP)
        rate = self.recipe.rate * warm * (1 + math.cos(math.pi * self.done)) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        torch.manual_seed(self.recipe.seed + self.step)  # for models with dropout
        device = next(self.student.parameters()).device
        given = {"input_ids": ids.to(device), "use_cache": False}
        with torch.autocast(device.type, torch.bfloat16, enabled=_has_bfloat16(device)):
            with torch.no_grad():
                dense = self.teacher(**given).logits
            sparse = self.student(**given).logits
        divergence(sparse, dense).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.learnt.values(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()

    def keep(self, path: Path, about: Mapping[str, Any]) -> None:
        """Write the state that `restore` needs to continue."""
        tensors = {f"adapter.{name}": weight.detach() for name, weight in self.learnt.items()}
        for name, weight in self.learnt.items():
            tensors |= {f"{key}.{name}": it for key, it in self.optimiser.state[weight].items()}
        so_far = _SoFar(step=self.step, cpu=self.cpu, wall=self.wall)
        note = {"about": json.dumps(about), "so_far": so_far.model_dump_json()}
        with whole_file(path) as handle:
            handle.write(safetensors.torch.save(tensors, note))

    def restore(self, path: Path, about: Mapping[str, Any]) -> None:
        """Read the state that `keep` wrote.

        Raises:
            DipsimError: a file that is damaged or belongs to other settings.
        """
        try:
            with safetensors.safe_open(path, "pt") as file:
                note = file.metadata()
            kept, so_far = json.loads(note["about"]), _SoFar.model_validate_json(note["so_far"])
            _check_same(path.parent, kept, about)
            tensors = lora.read_tensors(path, self._state())
        except DipsimError:
            raise
        except Exception as problem:  # whatever may stand there instead
            raise DipsimError(f"{path}: damaged ({brief(problem)}); remove the folder") from None
        for name, weight in self.learnt.items():
            weight.data.copy_(tensors[f"adapter.{name}"])
            self.optimiser.state[weight] = {
                key: tensors[f"{key}.{name}"] for key in ("step", *_MOMENTS)
            }
        self.step, self.cpu, self.wall = so_far.step, so_far.cpu, so_far.wall

    def _state(self) -> dict[str, Tensor]:
        """Return tensors with the names and shapes of a state; their values mean nothing."""
        like: dict[str, Tensor] = {}
        for name, weight in self.learnt.items():
            moments = dict.fromkeys(("adapter", *_MOMENTS), weight.detach())
            like |= {f"{key}.{name}": it for key, it in moments.items()}
            like[f"step.{name}"] = torch.zeros(())
        return like

    def judge(self, windows: NDArray[np.int64]) -> Recovery:
        """Return the four perplexities, and the cost of the training."""
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
            adapter_parameters=sum(weight.numel() for weight in kept),
            adapter_bytes=sum(weight.nbytes for weight in kept),
            model_bytes=sum(weight.nbytes for weight in self.teacher.parameters()),
        )


def divergence(sparse: Tensor, dense: Tensor) -> Tensor:
    """Return the mean Kullback-Leibler divergence of sparse predictions from dense ones.

    Args:
        sparse: float[..., vocabulary] logits.
        dense: logits of the same shape.

    Returns:
        float[], nats per token.
    """
    student, teacher = (logits.float().log_softmax(-1).flatten(0, -2) for logits in (sparse, dense))
    return nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _has_bfloat16(device: torch.device) -> bool:
    """Return True if bfloat16 is fast on the device; elsewhere it is slower than float32."""
    if device.type != "cpu":
        return True
    can = torch.cpu.get_capabilities()
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))
