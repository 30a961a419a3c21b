"""Weights on their way from actor to rollout servers: by collectives or by files."""
