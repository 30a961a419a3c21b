"""What a smaller model solves of a pool (the paper's difficulty filter): marks, and the pool that is left."""
