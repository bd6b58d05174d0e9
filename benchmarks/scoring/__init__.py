"""A data set scored by a simulated teacher: `python -m benchmarks.scoring`."""
