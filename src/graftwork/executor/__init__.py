"""What runs a plan: `local` shares the work out among the threads of this process, block by block (`blocks`)."""
