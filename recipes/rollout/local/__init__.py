"""Our engine: continuous batching over the modules of transformers."""
