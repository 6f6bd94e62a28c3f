"""This machine's disk: measured, fitted, and held against the flash model."""
