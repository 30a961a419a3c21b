"""The rules: what is a box, what is the format, and when two answers are the same (docs/rewards.md)."""
