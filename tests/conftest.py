"""Settings of the whole suite: hypothesis draws the same examples every time, however slow."""

from hypothesis import settings

settings.register_profile("dipsim", derandomize=True, deadline=None)
settings.load_profile("dipsim")
