"""TensorRT-LLM's PyTorch backend behind the rollout server: AsyncLLM on Ray, refitted in place."""
