"""From the benchmarks people run to a profile: readers, the fit, and the YAML that is written."""
