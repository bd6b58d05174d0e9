"""The shared teacher under load, with a simulated engine: `python -m benchmarks.service`."""
