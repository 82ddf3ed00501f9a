"""TRL's SDFTTrainer on given examples: the other side of the peer measurement, a process of its own.

`python -m tests.benchmarks.peer_trl JOB.json` writes what it measured into the job's `result`. Settings say what this
project's own run does: full-vocabulary reverse KL, an EMA teacher, fp32, AdamW, one completion a prompt, nothing
recomputed in the backward pass.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback
from trl.experimental.sdft import SDFTConfig, SDFTTrainer


class StepTimes(TrainerCallback):
    """Seconds of every step, sampling included, and the mean length of its completions."""

    def __init__(self) -> None:
        self.step_s: list[float] = []
        self.completion_tokens: list[float] = []
        self._started = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._started = self._started or time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        ended = time.perf_counter()
        self.step_s.append(ended - self._started)
        self._started = ended

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "completions/mean_length" in logs:
            self.completion_tokens.append(logs["completions/mean_length"])


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Trains as the job says.

    Args:
        job: `model` a folder; `examples` a JSON Lines file with prompt and demonstration; `template` of the teacher
            prompt; `batch_size`, `num_steps`, `max_new_tokens`, `learning_rate`, `ema_decay`; `folder` for scratch.
    """
    rows = [json.loads(line) for line in Path(job["examples"]).read_text().splitlines()]
    data = Dataset.from_list([{"prompt": row["prompt"], "privileged_context": row["demonstration"]} for row in rows])
    config = SDFTConfig(
        output_dir=job["folder"],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        max_steps=job["num_steps"],
        per_device_train_batch_size=job["batch_size"],
        num_generations=1,
        max_prompt_length=None,
        max_completion_length=job["max_new_tokens"],
        learning_rate=job["learning_rate"],
        distillation_mode="full_logits",
        distillation_alpha=1.0,
        teacher_model_kind="ema",
        teacher_update_rate=1.0 - job["ema_decay"],
        teacher_prompt_template=job["template"],
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    times = StepTimes()
    SDFTTrainer(model=job["model"], args=config, train_dataset=data, callbacks=[times]).train()
    return {"step_s": times.step_s, "completion_tokens": times.completion_tokens}


if __name__ == "__main__":
    the_job = json.loads(Path(sys.argv[1]).read_text())
    Path(the_job["result"]).write_text(json.dumps(train(the_job)))
