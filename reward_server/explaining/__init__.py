"""Why a verdict is what it is, step by step, in words of the rules that made it."""
