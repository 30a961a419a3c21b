"""The parts of `crossthink sweep`: which runs, their processes, what they found, and how that stands to the paper."""
