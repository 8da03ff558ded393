"""The project's benchmarks: `python -m benchmarks` measures whole processes and writes docs/results/; `bench_*.py` time kernels."""
