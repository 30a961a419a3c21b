"""The libraries below an engine, made ready for this environment and machine."""

from __future__ import annotations

from recipes.environment import missing


def prepare_stack() -> None:
    """Make NeMo-Aligner's libraries run here, where this is their environment. Harmless when called again.

    To be called before anything of megatron-core is imported; the other environment's needs nothing before.

    Raises:
        RuntimeError: something of them has been imported already.
    """
    if missing("aligner") is not None:
        return
    from recipes.actors.aligner.cpu import redirect_to_cpu
    from recipes.actors.aligner.defects import work_round_defects
    from recipes.actors.aligner.quiet import quiet_nemo

    redirect_to_cpu()
    work_round_defects()
    quiet_nemo()


def redirect_loaded_stack() -> None:
    """Make what is loaded of megatron-core run here, where this is the environment of actor=megatron. Harmless when
    called again; a model's own building does the same."""
    if missing("megatron") is not None:
        return
    from recipes.actors.megatron.cpu import redirect_to_cpu

    redirect_to_cpu()
