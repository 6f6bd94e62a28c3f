"""Hardware profiles: what a device is, in one YAML file, every number with a source and a kind."""

from dipsim.hardware.load import (
    FOLDER,
    Overrides,
    load_profile,
    override_pairs,
    override_texts,
    profile_names,
)
from dipsim.hardware.profile import (
    FIXED_COSTS,
    SMALL_READ,
    STATED,
    Backend,
    Fault,
    Fit,
    Flash,
    Kind,
    Profile,
    Read,
    Source,
    profile_schema,
)
from dipsim.hardware.uncertainty import (
    RULES,
    SPREADS,
    is_known_share,
    kinds_of,
    spread_of,
    spreads_of,
)

__all__ = [
    "FIXED_COSTS",
    "FOLDER",
    "RULES",
    "SMALL_READ",
    "SPREADS",
    "STATED",
    "Backend",
    "Fault",
    "Fit",
    "Flash",
    "Kind",
    "Overrides",
    "Profile",
    "Read",
    "Source",
    "is_known_share",
    "kinds_of",
    "load_profile",
    "override_pairs",
    "override_texts",
    "profile_names",
    "profile_schema",
    "spread_of",
    "spreads_of",
]
