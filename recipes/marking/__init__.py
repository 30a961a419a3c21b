"""What a smaller model solves of a pool (paper, section 7): marks, their consequences, the pool that is left."""
