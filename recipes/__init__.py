"""What a user runs: the commands, and what they are made of from training to reports. Only parts of it need torch."""
