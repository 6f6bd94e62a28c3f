"""OPT, the clairvoyant optimum: of all units resident or in use, it keeps those used soonest again.

No demand policy that starts empty hits more over all tokens. It differs from `belady` in admission:
a miss that is needed later than everything resident is streamed through.
"""

from dipsim.policies.belady import rank
from dipsim.policies.contract import Policy

OPT = Policy(
    "opt",
    "keeps what is used soonest (clairvoyant optimum)",
    "Mattson et al. 1970; admission as in Michaud, ACM TACO 2016",
    rank=rank,
    admit="ranked",
    future=True,
    blind=True,
    atomic_only=True,
)
