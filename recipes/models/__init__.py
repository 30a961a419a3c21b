"""What a model is before anything is built: families and shapes, folders, weights files, tokenizers, FLOPs."""
