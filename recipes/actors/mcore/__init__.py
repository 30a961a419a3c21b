"""What both engines share of megatron-core: mesh, layout of the weights, passes, checkpoints."""
