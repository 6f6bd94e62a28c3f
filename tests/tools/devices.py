"""Hardware profiles that several test files share."""

from typing import Any

PHONE: dict[str, Any] = {
    "name": "phone",
    "dram": {"capacity": "8 GB", "bandwidth": "60 GB/s"},
    "flash": {"bandwidth": "1 GB/s"},
    "compute": "2 TFLOP/s",
}
BY_HAND: dict[str, Any] = {
    "name": "by hand",
    "dram": {"capacity": "1 MB", "bandwidth": "1 kB/s"},
    "flash": {"bandwidth": "100 B/s"},
    "compute": "unlimited",
}
"""A device whose times can be worked out by hand."""
