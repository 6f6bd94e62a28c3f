"""Sparse layers in the loop: a method's masks on the inputs of a running model's matrices.

A mask multiplies the *input* of the matrices whose columns it drops, or the neurons before W_down:

    mlp_input   x' = x * mask            before W_gate and W_up
    glu         h' = h * mask            before W_down,  h = act(W_gate x') * (W_up x')
    gate, up    h' = h * mask, chosen by abs(act(W_gate x)), or by abs(W_up x)
    attn_*      before q, k, v, and before o
    expert      the router's choice

so an adapter beside a matrix sees the masked input too (the mask acts before A), and gradients flow
through what is kept. Which units are kept is decided by `Live`, with the replay's own rules.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dipsim.budget.divide import Budget
from dipsim.errors import BudgetError, DipsimError, MethodError, ModelError
from dipsim.hardware import Profile
from dipsim.layers.contract import whole_modes
from dipsim.lm.calls import Marks, call_of
from dipsim.lm.live import RUNNING, Live, only_on_traces
from dipsim.lm.record import outline, record_arrays
from dipsim.lm.routers import Router, RouterHooks
from dipsim.lm.routes_tap import check_takes, logits_of, rounding_of
from dipsim.lm.structure import Layer, Output, Structure, find_structure
from dipsim.methods import BUILTIN, PruningMethod, load_method, signals_of
from dipsim.model import Model
from dipsim.policies import Policy
from dipsim.replay.traffic import Traffic
from dipsim.resolve import Input
from dipsim.result import Result
from dipsim.settings import concerning
from dipsim.simulate import prepare
from dipsim.systems import Decided
from dipsim.tokens import Pruned
from dipsim.trace import DECODE, PREFILL, Outline, Tokens, load_trace
from dipsim.trace.tokens import positions

_ANY_DEVICE = "paper-a18"  # where no time is asked for, any device divides a cache alike
_CACHED = 0.5
_WITH_THRESHOLDS = ("cats", "teal")
_BEFORE = Tokens.of(np.full(2, DECODE, np.uint8), np.zeros(2, np.int32))
"""Stand-in for the tokens until the model runs; without ``context``, DRAM holds KV of two."""


def sparsify(
    model: nn.Module,
    method: str | PruningMethod,
    policy: str | Policy = "lfu",
    capacity: float | NDArray[np.int64] | None = None,
    *,
    profile: Input | Profile | None = None,
    geometry: Input | Model | None = None,
    calibrate: Tensor | Sequence[int] | None = None,
    prompt: int = 0,
    work: Sequence[Pruned] | None = None,
    **settings: Any,
) -> "Sparse":
    """Put a method's masks into a model.

    ``with sparsify(model, "dip-ca", "lfu", 0.6, density=0.7) as sparse: model(ids)``

    Args:
        model: a causal language model of transformers, perhaps with adapters of peft.
        method: name, ``file.py:attribute`` or a `PruningMethod`.
        capacity: share of the units that the caches hold, or int64[layers, groups] units; default:
            what ``dram``, ``cache`` or the profile say, without a profile half of the units.
        profile: the device, for `Sparse.result`; as of `dipsim.simulate`.
        geometry: the model's, where its config is not known; as of `dipsim.load_model`.
        calibrate: token ids that thresholds are calibrated on, or a predictor's blur.
        prompt: first tokens of each sequence that are a prompt, where it comes with what follows.
        work: tokens that layers saw where some were pruned, sequence by sequence; they ran already.
        settings: fields of `Settings`, e.g. ``density=0.7, gamma={"mlp_input": 0.5, "glu": 0.2}``.

    Raises:
        DipsimError: a method the model has no signals for, options that do not fit, in one line.
    """
    structure = find_structure(model)
    thresholds = method in _WITH_THRESHOLDS or settings.get("selection") == "threshold"
    calibrated = thresholds or method == "predictor"
    if calibrated and calibrate is None:
        raise MethodError(
            f"method {method} is calibrated on tokens that are not judged: give some "
            "(--calibrate-tokens A:B, in Python calibrate=ids)"
        )
    options = _options(capacity, profile is not None, settings)
    if options.get("allocate") == "optimal":
        raise only_on_traces("--allocate optimal")
    if thresholds and calibrate is not None:
        options["calibrate_tokens"] = f"0:{len(calibrate)}"
    known = _trace(model, structure, method, geometry, calibrate if calibrated else None)
    if work is None:
        known = known.deeper(prompt)
    else:
        known = known.of_tokens(RUNNING, _tokens_of(work, prompt))
    run = prepare(
        known,
        _ANY_DEVICE if profile is None else profile,
        policy=policy,
        method=method,
        decided=Decided(_all_layers(known), work),
        **options,
    )
    if isinstance(capacity, np.ndarray):
        run = replace(run, budget=_with_capacity(run.budget, capacity))
    return Sparse(structure, Live(run, work), timed=profile is not None, prompt=prompt)


def _all_layers(outline: Outline) -> NDArray[np.uint8]:
    """Return the modes of tokens that run all layers, as long as none ran."""
    return whole_modes(np.zeros((outline.tokens, outline.layers), np.bool_))


def _tokens_of(work: Sequence[Pruned], prompt: int) -> Tokens:
    """Return the tokens of sequences that were pruned: a prompt, then a step for each token."""
    lengths = [prompt + len(each.active) - 1 for each in work]
    sequence = np.repeat(np.arange(len(work), dtype=np.int32), lengths)
    phase = np.where(positions(sequence) < prompt, PREFILL, DECODE).astype(np.uint8)
    return Tokens.of(phase, sequence)


def _options(
    capacity: float | NDArray[np.int64] | None, timed: bool, settings: dict[str, Any]
) -> dict[str, Any]:
    """Return the settings that are given, with a budget where nothing says one."""
    options = {key: value for key, value in settings.items() if value is not None}
    if isinstance(capacity, int | float):
        options["cache_fraction"] = float(capacity)
    elif not timed and not set(concerning("budget")) & set(options):
        options["cache_fraction"] = _CACHED
    return options


def _with_capacity(budget: Budget, capacity: NDArray[np.int64]) -> Budget:
    """Return the budget with caches of int64[layers, groups] units.

    Raises:
        BudgetError: another shape, or less than nothing.
    """
    if capacity.shape != budget.capacity.shape or capacity.min() < 0:
        raise BudgetError(
            f"capacity of shape {capacity.shape}: give whole numbers >= 0 of shape "
            f"{budget.capacity.shape}, layers and groups"
        )
    return replace(budget, capacity=capacity)


def _trace(
    model: nn.Module,
    structure: Structure,
    method: str | PruningMethod,
    geometry: Input | Model | None,
    calibrate: Tensor | Sequence[int] | None,
) -> Outline:
    """Return what a method is made ready on: a recording of the dense model on the tokens it is
    calibrated on, or without them the model's outline.

    Raises:
        MethodError: a method that is none, or that has nothing to choose in a running model.
    """
    if method == "recorded":
        known = ", ".join(name for name in BUILTIN if name != "recorded")
        raise MethodError(f"method {method!r} cannot prune a running model: use one of {known}")
    own = load_method(method)
    if isinstance(own, PruningMethod):
        method = own.label
        _check_masked(own)
    signals = signals_of(own) or ("glu",)
    routers = [layer.router for layer in structure.layers]
    if any(routers) and "expert" not in signals:
        raise MethodError(f"method {method}: this model has experts, no MLP: use moe")
    if not any(routers) and "expert" in signals:
        raise MethodError(f"method {method}: this model has no experts: use another, e.g. dip")
    named = {} if geometry is None else {"model": geometry}
    if calibrate is None:
        plain = outline(model, RUNNING, _BEFORE, signals, structure)
        return replace(plain, meta={**plain.meta, **named})
    ids = torch.as_tensor(calibrate).reshape(1, -1)
    arrays = record_arrays(model, ids, signals, structure)
    return load_trace({**arrays, "meta": {**arrays["meta"], **named}})


def _check_masked(method: PruningMethod) -> None:
    """Refuse groups of which not all matrices have the input that the signal is of.

    Raises:
        MethodError: in one line.
    """
    for group in method.unit_groups:
        if not group.usual:
            raise MethodError(
                f"method {method.label}: a running model masks the input that all matrices of "
                f"{group.signal} share, not of {', '.join(group.matrices)} alone: record a trace "
                "and replay it"
            )


class Sparse:
    """A model with masks in it, until `remove` or the end of a with-block.

    While gradients are taken in training mode nothing is booked: what trains is not measured.
    """

    def __init__(self, structure: Structure, live: Live, timed: bool, prompt: int = 0) -> None:
        self.structure, self.live, self._timed = structure, live, timed
        self._hooks: list[Any] = []
        self._seen: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._outputs: dict[tuple[int, str], Tensor] = {}
        self._marks, self._rows = Marks(prompt), 0
        self._rounding = rounding_of(structure.decoder)
        self._put_in()

    def _put_in(self) -> None:
        decoder = self.structure.decoder
        self._hooks.append(decoder.register_forward_pre_hook(self._begin, with_kwargs=True))
        for number, layer in enumerate(self.structure.layers):
            for i, group in enumerate(self.live.method.groups):
                if group.choice == "all":  # nothing to mask, but its reads are booked
                    every = np.zeros(group.units, np.float32)
                    hook = self._booked(number, i, every)
                    self._hooks.append(decoder.register_forward_hook(hook))
                else:
                    self._mask(number, layer, i, group.signal)

    def _mask(self, number: int, layer: Layer, i: int, signal: str) -> None:
        """Put the mask of group ``i`` into a layer."""
        if signal == "expert":
            self._route(number, i, layer.router)
            return
        source = {"gate": layer.gate, "up": layer.up}.get(signal)
        if source is not None:
            keep = self._keep(number, signal, source)
            self._hooks.append(source.module.register_forward_hook(keep))
        score = self._scored_by(number, signal, layer.act)
        for module in _fed(layer, signal):
            hook = self._masked(number, i, score)
            self._hooks.append(module.register_forward_pre_hook(hook))

    def remove(self) -> None:
        """Take the masks out; the figures stay."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._seen.clear()
        self._outputs.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    # What happens while the model runs

    def _begin(self, decoder: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        """Tell the caches the rows of a call, and whether they are a prompt."""
        phase, sequence = self._marks.of(call_of(args, given))
        self._rows = len(phase)
        trains = decoder.training and torch.is_grad_enabled()
        self.live.begin(phase, sequence, book=not trains)
        self._seen.clear()

    def _keep(self, number: int, signal: str, source: Output) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            self._outputs[number, signal] = source.of(output)

        return hook

    def _scored_by(
        self, number: int, signal: str, act: Callable[[Tensor], Tensor] | None
    ) -> Callable[[Tensor], Tensor]:
        """Return what makes the scores of neurons or columns, given the input that is masked."""
        if signal not in ("gate", "up"):
            return lambda x: x

        def kept(x: Tensor) -> Tensor:
            output = self._outputs.pop((number, signal)).detach()
            return act(output) if signal == "gate" and act is not None else output

        return kept

    def _masked(
        self, number: int, i: int, score: Callable[[Tensor], Tensor]
    ) -> Callable[..., tuple[Tensor, ...]]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x, *rest = args
            seen = self._seen.get((number, i))
            if seen is None or seen[0] is not x:  # gate and up share an input and a mask
                seen = x, x * self._chosen(number, i, score(x).abs()).view(x.shape)
                self._seen[number, i] = seen
            return (seen[1], *rest)

        return hook

    def _booked(self, number: int, i: int, scores: NDArray[np.float32]) -> Callable[..., None]:
        """Show the caches the same float32[units] scores of every token; the model stays as is."""

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self.live.mask(number, i, np.repeat(scores[None], self._rows, axis=0))

        return hook

    def _route(self, number: int, i: int, router: Router | None) -> None:
        """Book what a layer's router chooses; or let the rule choose for it, or fewer of its best,
        over which a router that normalises its weights does so anew.

        Raises:
            ModelError: a router that cannot be told what to choose, or not so many.
        """
        if router is None:  # a dense layer among others
            units = self.live.method.groups[i].units
            hook = self._booked(number, i, np.full(units, -np.inf, np.float32))
            self._hooks.append(self.structure.decoder.register_forward_hook(hook))
            return
        rule, asked = self.live.method.groups[i].rule, self.live.run.settings.top_k
        fewer = asked is not None and asked < router.k
        if asked is not None and asked > router.k:
            raise ModelError(
                f"--top-k {asked}: the model uses {router.k} experts a token: give as many or fewer"
            )
        if rule is not None or fewer:
            check_takes(router, drops=fewer or (rule is not None and rule.name == "drop-cold"))

        def mask(scores: Tensor, used: Tensor) -> Tensor:
            return self._chosen(number, i, logits_of(router, scores, used, self._rounding))

        def note(scores: Tensor, used: Tensor, weights: Tensor | None) -> None:
            mask(scores, used)

        chooses = rule is not None or fewer
        self._hooks.append(
            RouterHooks(router, None if chooses else note, mask if chooses else None)
        )

    def _chosen(self, number: int, i: int, scores: Tensor) -> Tensor:
        """bool[n, units] on the model's device."""
        units = scores.shape[-1]
        rows = scores.detach().reshape(-1, units).float().cpu().numpy()
        return torch.from_numpy(self.live.mask(number, i, rows)).to(scores.device)

    # Figures

    @property
    def traffic(self) -> Traffic:
        """Counts of what the caches did; arrays [tokens, layers, groups]."""
        return self.live.traffic

    @property
    def density(self) -> float | None:
        """Share of the pruned matrices' weights that tokens used; None for experts."""
        return self.live.density

    def result(self) -> Result:
        """Return the figures of a run on the profile, in closed loop.

        Raises:
            DipsimError: no profile was given, or the model did not run.
        """
        if not self._timed:
            raise DipsimError("no device to time it on: give sparsify a profile, e.g. snapdragon8")
        return self.live.result()

    @property
    def hit_rate(self) -> float:
        """Bytes hit / bytes active."""
        return self.live.result().hit_rate

    @property
    def energy_kept(self) -> dict[str, float]:
        """Per stage, the mean share of the squared scores that was kept."""
        traffic, runs = self.traffic, self.live.ran.sets.runs
        energy = traffic.energy[traffic.measured]
        if runs is None:
            kept = energy.mean(axis=(0, 1))
        else:  # where layers are skipped, of those that run
            kept = energy[runs[traffic.measured]].mean(axis=0)
        return dict(zip(traffic.groups, map(float, kept), strict=True))


def _fed(layer: Layer, signal: str) -> Sequence[nn.Module]:
    """Return the matrices whose input a signal's mask multiplies."""
    if signal == "mlp_input":
        return layer.mlp_input
    if signal == "attn_input":
        return layer.attn_input
    last = layer.attn_output if signal == "attn_output" else layer.down
    return () if last is None else (last,)
