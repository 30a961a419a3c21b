"""OpenAI's completions and chat completions, as the rollout server answers them."""
