"""Engines that train: policy and critic behind one interface, on Megatron or on NeMo-Aligner."""
