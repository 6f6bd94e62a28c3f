"""Calibration of a profile: readers of benchmarks, the fit, and the numbers that come of it."""
