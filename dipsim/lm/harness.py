"""A hook for lm-evaluation-harness: its tasks on a model with masks.

``with sparsify(model, "dip", density=0.7): simple_evaluate(harness(model, tok), tasks=[...])``
"""

from importlib.util import find_spec
from typing import Any

from torch import nn

from dipsim.errors import DipsimError


def harness(model: nn.Module, tokenizer: Any) -> Any:
    """Wrap a model as ``lm_eval.api.model.LM``, one sequence at a time: padding would be tokens.

    Raises:
        DipsimError: lm-evaluation-harness is not installed.
    """
    if find_spec("lm_eval") is None:
        raise DipsimError("this hook needs lm-evaluation-harness: pip install lm-eval")
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
