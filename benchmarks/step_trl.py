"""TRL's side of `benchmarks/step.py`: GRPOTrainer on the same model folder. Runs in `.venv-trl`.

.venv-trl/bin/python benchmarks/step_trl.py '{"folder": …}'
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

from step_turns import Stopwatch, Turns, reward


def main() -> int:
    """Train until the turns end."""
    case, turns = json.loads(sys.argv[1]), Turns()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    import transformers

    torch.set_num_threads(case["threads"])
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as scratch:
        trainer(case, turns, scratch).train()
    return 0


def trainer(case: dict[str, Any], turns: Turns, scratch: str) -> Any:
    """A GRPOTrainer that notes the seconds of its phases and stops when the turns end."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOTrainer

    class Timed(GRPOTrainer):
        watch = Stopwatch()

        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            with self.watch.phase("generation"):
                return super()._generate(*args, **kwargs)

        def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
            with self.watch.phase("reward"):
                return super()._calculate_rewards(*args, **kwargs)

        def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
            if torch.is_grad_enabled():  # the training pass
                return super()._get_per_token_logps_and_entropies(*args, **kwargs)
            with self.watch.phase("log-probs"):
                return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    class Pace(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.wait(control, None)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.wait(control, made.watch.finish("training"))

        def wait(self, control: Any, step: Any) -> None:
            control.should_training_stop = not turns.go_on(step)
            made.watch = Stopwatch()

    def reward_function(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        assert case["stop_ids"] or all(len(ids) == case["response_tokens"] for ids in completion_ids)
        return [reward(text) for text in completions]

    made = Timed(
        model=AutoModelForCausalLM.from_pretrained(case["folder"], dtype=torch.float32),
        reward_funcs=reward_function,
        args=settings(case, scratch),
        train_dataset=Dataset.from_list([{"prompt": text} for text in case["texts"]]),
        processing_class=AutoTokenizer.from_pretrained(case["folder"]),
        callbacks=[Pace()],
    )
    made.eos_token_ids = case["stop_ids"] or [-1]
    return made


def settings(case: dict[str, Any], scratch: str) -> Any:
    """TRL's settings that come to the same step as ours."""
    from trl import GRPOConfig

    samples = case["prompts"] * case["group"]
    return GRPOConfig(
        output_dir=scratch,
        max_steps=1_000_000,
        learning_rate=case["lr"],
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=case["micro_batch"],
        gradient_accumulation_steps=samples // case["micro_batch"],
        generation_batch_size=case["generation_batch"],
        num_generations=case["group"],
        max_completion_length=case["response_tokens"],
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=case["kl"],
        loss_type="grpo",
        # Where no id ends a response, no logits processor is spent on it.
        generation_kwargs={"eos_token_id": case["stop_ids"] or None},
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )


if __name__ == "__main__":
    sys.exit(main())
