"""Readers of what benchmarks print: one file per program, and the table of all."""
