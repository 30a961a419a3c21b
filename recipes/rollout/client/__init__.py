"""The trainer's side of rollout servers: samples from whichever are alive."""
