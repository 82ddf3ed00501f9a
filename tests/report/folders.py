"""Run folders as a run leaves them, with made-up numbers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

PACKAGES = {"ray": "2.60.0", "torch": "2.13.0+cpu"}


def settings_of(method: str, seed: int, **sections: Mapping[str, Any]) -> dict[str, Any]:
    """A config.yaml, small but nested; a section is merged into the defaults of its name."""
    settings: dict[str, Any] = {
        "name": f"{method}-{seed}",
        "seed": seed,
        "batch_size": 8,
        "cluster": {"name": "local"},
        "model": {"path": "smollm2-135m"},
        "data": {"source": "builtin:facts"},
        "evaluation": {"sets": {"taught": "builtin:facts:taught"}},
        "method": {"name": method, "target": "TOKEN" if method == "sft" else "TEACHER"},
        "loss": {"divergence": "FORWARD_KL"},
    }
    for name, section in sections.items():
        settings[name] = settings.get(name, {}) | dict(section)
    return settings


def write_run(
    folder: Path,
    settings: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
    *,
    samples: Sequence[Mapping[str, Any]] = (),
    answers: Sequence[Mapping[str, Any]] | None = None,
    summary: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a run folder; without a summary the run has not finished, and None is no file of answers."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(settings), sort_keys=False))
    for name, records in (("metrics.jsonl", lines), ("samples.jsonl", samples), ("answers.jsonl", answers)):
        if records is not None:
            (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def step_line(step: int, **metrics: float) -> dict[str, Any]:
    """A line of metrics.jsonl; `learner__loss` stands for learner/loss."""
    return {"step": step, "time_s": 2.0 * step} | {key.replace("__", "/"): value for key, value in metrics.items()}


def sample_line(step: int, tokens: Sequence[str], divergence: Sequence[float], example: str = "one") -> dict[str, Any]:
    """A line of samples.jsonl."""
    return {
        "step": step,
        "example_id": example,
        "prompt": "Question?",
        "completion": "".join(tokens),
        "tokens": list(tokens),
        "divergence": list(divergence),
    }


def answer_line(step: int, set_name: str, example: str, right: bool | None, gold: str = "Tosk") -> dict[str, Any]:
    """A line of answers.jsonl."""
    return {
        "step": step,
        "set": set_name,
        "example_id": example,
        "question": "Who?",
        "answer": gold,
        "completion": "It is.",
        "right": right,
    }


def answer_lines(step: int, set_name: str, rights: str) -> list[dict[str, Any]]:
    """The answers of one evaluation of a set: + for right, - for wrong, ? for one that could not be scored."""
    values = {"+": True, "-": False, "?": None}
    return [answer_line(step, set_name, f"line-{place}", values[mark]) for place, mark in enumerate(rights, start=1)]


def summary_of(num_steps: int) -> dict[str, Any]:
    """What a finished run leaves, as far as a page reads it."""
    seconds = {"step": 8.0, "rollout": 2.5, "score": 1.5, "wait": 1.0, "load_weights": 1.0, "publish": 0.4, "load": 0.6}
    seconds |= {"forward_backward": 2.8, "optimizer": 0.6, "ema": 0.1}
    return {
        "num_steps": num_steps,
        "wall_s": 10.0 * num_steps,
        "tokens_per_s": 51.2,
        "seconds": seconds,
        "peak_memory_gib": {"learner": {"max": 7.2, "sum": 7.2}},
        "git_commit": "0123456789abcdef",
        "packages": PACKAGES,
    }


def trained_run(folder: Path, method: str, seed: int, *, num_steps: int = 24, level: float = 0.8) -> Path:
    """A finished run with curves, evaluations, pass@k and samples that depend on method and seed alone."""
    shift = 0.02 * (seed - 1)
    kept = 0.5 if method == "sft" else 0.85
    lines: list[dict[str, Any]] = []
    for step in range(num_steps + 1):
        share = step / num_steps
        if step % 6 == 0:
            evaluated = {
                "evaluation/taught_accuracy": round(min(1.0, level * share**0.5 + max(0.0, shift)), 4),
                "evaluation/paraphrased_accuracy": round(0.9 * level * share, 4),
                "evaluation/prior_accuracy": round(0.55 * (1 - (1 - kept) * share) + shift, 4),
                "evaluation/prior_logprob_nats": -1.0 + 0.3 * share + shift,
            }
            lines.append({"step": step, "time_s": 2.0 * step} | evaluated)
        if step:
            wobble = 0.04 * ((7 * step + 3 * seed) % 5 - 2)
            lines.append(
                step_line(
                    step,
                    learner__loss=1.1 - share + wobble,
                    learner__divergence_nats=1.0 - 0.8 * share + wobble,
                    learner__student_entropy_nats=2.4 - share + wobble,
                    learner__grad_norm=3.0 - 2 * share + wobble,
                    rollout__completion_tokens_mean=16 - 4 * share + wobble,
                    loop__step_s=8.0,
                )
            )
    passed = {f"evaluation/taught_pass_at_{k}": round(level * (1 - 0.6**k) + shift, 4) for k in (1, 2, 4, 8, 16)}
    lines.append({"step": num_steps, "time_s": 2.0 * num_steps} | passed)
    samples = [
        sample_line(
            1, ["The", " capital", " of", " Velmor", " is", " Paris", "."], [0.1, 0.4, 0.05, 0.9, 0.2, 4.1, 0.3]
        ),
        sample_line(num_steps, ["It", " is", " Tosk", ".\n", "<|end|>"], [0.05, 0.02, 0.6, 0.1, 0.01]),
    ]
    return write_run(
        folder,
        settings_of(method, seed),
        lines,
        samples=samples,
        answers=_answers_to(lines, seed),
        summary=summary_of(num_steps),
    )


def _answers_to(lines: Sequence[Mapping[str, Any]], seed: int, num_questions: int = 40) -> list[dict[str, Any]]:
    """Answers of which as many are right as the accuracies say, mostly the same ones in every evaluation."""
    answers = []
    for line in lines:
        for name in ("taught", "paraphrased", "prior"):
            accuracy = line.get(f"evaluation/{name}_accuracy")
            if accuracy is not None:
                easiest = sorted(
                    range(num_questions), key=lambda place: (7 * place + line["step"] + seed) % num_questions
                )
                right = set(easiest[: round(accuracy * num_questions)])
                rights = "".join("+" if place in right else "-" for place in range(num_questions))
                answers += answer_lines(line["step"], name, rights)
    return answers


def staged_run(folder: Path, method: str, seed: int, names: Sequence[str], *, steps: int = 20) -> Path:
    """A finished run over stages that forgets what it learned, sft more than others."""
    forgets = 0.5 if method == "sft" else 0.15
    lines: list[dict[str, Any]] = []
    for number, stage in enumerate(names):
        for step in range(0 if number == 0 else number * steps + 5, (number + 1) * steps + 1, 5):
            metrics = {}
            for place, task in enumerate(names):
                progress = min(max(step - place * steps, 0) / steps, 1.0)
                after = max(step - (place + 1) * steps, 0) / steps
                value = 0.2 + 0.6 * progress - forgets * 0.6 * min(after, 1.0) + 0.02 * seed
                metrics[f"evaluation/{task}_accuracy"] = round(value, 4)
            metrics["evaluation/prior_accuracy"] = round(0.6 - forgets * 0.004 * step + 0.01 * seed, 4)
            lines.append({"step": step, "time_s": float(step), "stage": stage} | metrics)
    settings = settings_of(method, seed) | {"stages": list(names)}
    return write_run(folder, settings, lines, summary=summary_of(steps * len(names)))
