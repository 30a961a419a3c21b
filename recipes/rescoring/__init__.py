"""The parts of `crossthink rescore`: dumped rollouts, what changed in their verdicts, and how that is shown."""
