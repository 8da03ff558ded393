"""Executors: what runs a plan. `local` uses the threads of this process."""
