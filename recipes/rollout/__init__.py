"""Engines that generate, behind one interface: in the actor's ranks, or as servers (docs/rollouts.md)."""
