"""Memory, time and layout of a run, by arithmetic without torch (docs/plan.md)."""
