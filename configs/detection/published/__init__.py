"""Published numbers: what papers report on the benchmarks, and how large these are."""
