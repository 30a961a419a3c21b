"""Policy and critic on NeMo-Aligner 0.7.0, in an environment of its own (docs/aligner.md)."""
