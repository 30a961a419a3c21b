"""Policy and critic on megatron-core 0.16.1: the default engine."""
