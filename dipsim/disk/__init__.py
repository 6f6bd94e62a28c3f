"""This machine's disk: measured, fitted, and compared with the flash model."""
