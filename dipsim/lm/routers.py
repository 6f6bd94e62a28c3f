"""Routers of mixtures of experts: how a layer chooses its experts, seen while it runs.

No router's code is known. Two things of a call are seen: the ids and weights that the experts are
given, and the call of ``torch.topk`` that chose them. Its input are the scores that the router
*selects by*, whatever made them: logits, probabilities, sigmoids with a bias, with the experts of
closed groups at minus infinity. Replaced on its way out, the choice is another one, and the model's
own code weighs the experts chosen: gathers, normalises and scales as it always does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Form = Literal["logits", "prob", "biased", "unknown"]
"""Kind of scores that a trace holds: logits whose softmax are the weights; weights, up to a factor;
weights plus a bias; or scores whose weights are not known."""
_TOPK = (torch.topk, Tensor.topk)


class TopkCalls(TorchFunctionMode):
    """While it is entered, every call of topk passes through ``take(scores, result)``."""

    def __init__(self, take: Callable[[Tensor, Any], Any]) -> None:
        super().__init__()
        self._take = take

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Make the call, and hand on what ``take`` makes of its result."""
        result = function(*args, **(kwargs or {}))
        if function not in _TOPK:
            return result
        return self._take(args[0] if args else kwargs["input"], result)


@dataclass(frozen=True)
class Router:
    """A layer's router: where its choice is seen, and how it weighs the experts it chooses."""

    module: nn.Module
    """Module that scores the experts."""
    experts: int
    """Number of experts that it scores."""
    k: int
    """Most experts that a token uses."""
    output: int | None = None
    """Position of the logits in the tuple that the module puts out; None if it is the tensor
    alone."""
    chooser: nn.Module | None = None
    """Module in whose forward topk chooses; None where no topk does."""
    call: int = 0
    """Number of that call of topk in the chooser's forward."""
    fed: nn.Module | None = None
    """Module that is given the ids of the chosen experts and their weights; None where none is."""
    form: Form = "logits"
    """Kind of scores that a trace holds of it."""
    function: str = "unknown"
    """Function of the logits that the scores are, less the bias: softmax, sigmoid ..."""
    reads_logits: bool = False
    """True if the scores are taken from the module's output: topk is given their softmax, or there
    is no topk."""
    squashed: bool = False
    """True if topk is given logits whose sigmoid is the weight."""
    bias: Tensor | None = None
    """float[experts], what is added for the choice alone."""
    normalised: bool = False
    """True if the weights of a token's experts have the same sum for all tokens."""
    scaling: float | None = None
    """Sum of a token's weights where `normalised`, else their factor; None where neither."""
    selects: bool = True
    """True if the experts used are those with the best scores."""
    separate: bool = True
    """True if nothing else that the module puts out depends on the choice."""

    @property
    def closed(self) -> float:
        """Score of an expert that is no candidate."""
        return 0.0 if self.form == "prob" else -torch.inf

    def logits_in(self, output: Any) -> Tensor:
        """Return the logits in the module's output, float[tokens, experts]."""
        logits: Tensor = output if self.output is None else output[self.output]
        return logits.detach().reshape(-1, logits.shape[-1])[:, : self.experts]

    def scores_of(self, seen: Tensor) -> Tensor:
        """Return the scores in a trace's form, of those that topk was given.

        Args:
            seen: float[..., experts or more].
        """
        scores = seen.detach().reshape(-1, seen.shape[-1])[:, : self.experts].float()
        if self.reads_logits:  # topk is given their softmax
            return scores.log()
        if self.squashed:
            return scores.sigmoid()
        if self.form == "prob":
            return scores.clamp_min(0)
        if self.form == "biased" and self.bias is not None:  # closed experts may be at 0, too
            return scores.masked_fill(scores == 0, -torch.inf)
        return scores


class RouterHooks:
    """Hooks on one layer's router that pass on what it chooses, and may change it.

    Args:
        router: of the layer.
        note: called with the scores float[tokens, experts], in the trace's form, the ids
            int64[tokens, k] that were used, -1 for none, and their weights float[tokens, k], or
            None where they are not seen.
        choose: called with the scores and the ids that the router chooses; returns bool[tokens,
            experts], what is to be used instead. Needs a chooser.
    """

    def __init__(
        self,
        router: Router,
        note: Callable[[Tensor, Tensor, Tensor | None], None] | None = None,
        choose: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.router, self._note, self._choose = router, note, choose
        self._scores: Tensor | None = None
        self._used: Tensor | None = None
        self._dropped: Tensor | None = None
        self._calls, self._mode = 0, TopkCalls(self._topk)
        self._hooks: list[Any] = []
        if router.chooser is not None:
            self._hooks.append(router.chooser.register_forward_pre_hook(self._enter))
            self._hooks.append(router.chooser.register_forward_hook(self._leave, always_call=True))
        if router.reads_logits:
            self._hooks.append(router.module.register_forward_hook(self._put_out))
        if router.fed is not None:
            self._hooks.append(router.fed.register_forward_pre_hook(self._given, with_kwargs=True))

    def remove(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._calls = 0
        self._mode.__enter__()  # type: ignore[no-untyped-call]

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if self.router.fed is None:
            self._tell(None)

    def _topk(self, given: Tensor, result: Any) -> Any:
        """Note the scores and ids of the call that chooses experts, and change the ids."""
        number, self._calls = self._calls, self._calls + 1
        if number != self.router.call:
            return result
        ids = result[1].reshape(-1, result[1].shape[-1])
        used = torch.where(ids < self.router.experts, ids, -1)
        if not self.router.reads_logits:
            self._scores = self.router.scores_of(given)
        self._used = used
        if self._choose is None:
            return result
        chosen = self._choose(self.router.scores_of(given), used).to(ids.device)
        taken = sets_of_ids(used, self.router.experts)
        many = chosen.sum(1, keepdim=True) > ids.shape[1]  # of a prompt that is not routed
        chosen = torch.where(many, taken, chosen)
        if torch.equal(chosen, taken):
            return result
        replaced, self._dropped = other_ids(ids, chosen)
        replaced = replaced.reshape(result[1].shape)
        return type(result)((given.gather(-1, replaced), replaced))

    def _put_out(self, module: nn.Module, args: Any, output: Any) -> None:
        self._scores = self.router.logits_in(output).float()

    def _given(self, module: nn.Module, args: Any, given: dict[str, Any]) -> Any:
        """Note the weights, and take those of dropped experts out of them."""
        ids, weights = ids_and_weights((*args, *given.values()))
        if self.router.chooser is None:
            self._used = torch.where(ids < self.router.experts, ids, -1)
        self._tell(weights)
        dropped, self._dropped = self._dropped, None
        if dropped is None or not dropped.any():
            return None
        kept = weights.masked_fill(dropped, 0)
        if self.router.normalised:  # over those that are left, as the model would
            kept = kept * (weights.sum(-1, keepdim=True) / kept.sum(-1, keepdim=True))

        def swapped(value: Any) -> Any:
            return kept.to(value.dtype).view(value.shape) if value is weights else value

        return tuple(map(swapped, args)), {key: swapped(value) for key, value in given.items()}

    def _tell(self, weights: Tensor | None) -> None:
        if self._note is not None and self._scores is not None and self._used is not None:
            self._note(self._scores, self._used, None if weights is None else weights.detach())
        self._scores = self._used = None


def other_ids(ids: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return ids with those that are not chosen replaced by those that are chosen instead.

    Args:
        ids: int64[tokens, k] of the router.
        chosen: bool[tokens, experts], at most k of each token.

    Returns:
        The ids, and bool[tokens, k], where one remains that is not chosen, as fewer are.
    """
    experts = chosen.shape[1]
    inside = torch.where(ids < experts, ids, 0)
    kept = chosen.gather(1, inside) & (ids < experts)
    new = chosen & ~sets_of_ids(ids, experts)
    order = new.float().topk(min(ids.shape[1], experts), dim=1).indices  # the new ones first
    many = new.sum(1, keepdim=True)
    place = (~kept).cumsum(1) - 1  # of a free place among the free ones
    taken = ~kept & (place < many)
    replaced = torch.where(taken, order.gather(1, place.clamp(0, order.shape[1] - 1)), ids)
    return replaced, ~kept & ~taken & (ids < experts)


def sets_of_ids(ids: Tensor, experts: int) -> Tensor:
    """Return bool[tokens, experts] of ids [tokens, k]; those outside 0..experts-1 are none."""
    inside = torch.where((ids >= 0) & (ids < experts), ids, experts)
    sets = torch.zeros(len(ids), experts + 1, dtype=torch.bool, device=ids.device)
    return sets.scatter_(1, inside, True)[:, :experts]


def ids_and_weights(given: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Return the ids int64[tokens, k] and weights float[tokens, k] among the inputs of experts.

    Raises:
        LookupError: there are none.
    """
    tensors = [value for value in given if isinstance(value, Tensor) and value.ndim == 2]
    for ids in tensors:
        if not ids.is_floating_point() and ids.dtype != torch.bool:
            for weights in tensors:
                if weights.is_floating_point() and weights.shape == ids.shape:
                    return ids, weights
    raise LookupError
