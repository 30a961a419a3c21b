"""The algorithm: prompts, advantages, losses, KL and the loop. Knows engines by their interfaces alone."""
