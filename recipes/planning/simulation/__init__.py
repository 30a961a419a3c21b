"""Training steps simulated for the curve in docs/scale.md: used by benchmarks/scale.py and scale_checked.py alone."""
