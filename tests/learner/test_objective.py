"""What the objective tells of single tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sdft_ray.config import LossConfig, Tail, Target
from sdft_ray.distill.reduction import LossOutput
from sdft_ray.learner.metrics import views_by_sample
from sdft_ray.learner.objective import Objective, Student
from sdft_ray.learner.schedule import pack_microbatch
from sdft_ray.learner.teacher import TeacherHeads
from sdft_ray.records import Microbatch, Rollout, Sample, TeacherScores, TopTokens
from tests.tiny import make_tiny_model

TOP = TopTokens(position=0, student=(1, -0.5), teacher=(2, -0.25))


def microbatch(payload: Any) -> Microbatch:
    return Microbatch(
        example_ids=("a", "b"),
        input_ids=np.arange(5),
        position_ids=np.arange(5),
        predictor_index=np.arange(5),
        completion_ids=np.arange(5),
        sequence_ids=np.array([0, 0, 1, 1, 1]),
        token_weights=np.array([0, 1, 0, 1, 1], dtype=np.float32),
        sampler_logprobs=np.zeros(5, dtype=np.float32),
        payloads=(payload, payload),
        teacher_versions=(0, 0),
    )


def sample(example_id: str, prompt: tuple[int, ...], completion: tuple[int, ...]) -> Sample:
    rollout = Rollout(
        prompt_tokens=prompt,
        completion_tokens=completion,
        logprobs=(0.0,) * len(completion),
        weight_version=0,
        truncated=False,
        num_sampled=0,
    )
    scores = TeacherScores(payload=None, num_tokens=len(completion), teacher_version=0)
    return Sample(example_id=example_id, epoch=0, rollout=rollout, scores=scores)


def output() -> LossOutput:
    values = torch.arange(5.0)
    return LossOutput(
        loss=torch.tensor(1.0),
        divergence=values,
        student_logprobs=-values,
        teacher_logprobs=-values - 10,
        student_entropy=values + 20,
        teacher_entropy=values + 30,
        correction=torch.ones(5),
    )


def test_every_sample_gets_the_views_of_its_own_tokens_counted_or_not() -> None:
    first, second = views_by_sample(output(), {1: (TOP,)}, {}, microbatch(payload="a handle"))
    assert first.divergence.tolist() == [0, 1]
    assert second.student_logprobs.tolist() == [-2, -3, -4]
    assert second.teacher_logprobs.tolist() == [-12, -13, -14]
    assert first.student_entropy.tolist() == [20, 21]
    assert first.teacher_entropy.tolist() == [30, 31]
    assert (first.tops, second.tops) == ((), (TOP,))


def test_where_nothing_was_scored_nothing_is_said_of_a_teacher() -> None:
    for views in views_by_sample(output(), {}, {}, microbatch(payload=None)):
        assert len(views.student_entropy) == len(views.divergence) > 0
        assert len(views.teacher_logprobs) == len(views.teacher_entropy) == 0


@pytest.mark.parametrize("target", [Target.TOKEN, Target.TOKEN_DFT])
def test_the_samplers_temperature_divides_no_logits_of_a_token_target(tmp_path: Path, target: Target) -> None:
    network = AutoModelForCausalLM.from_pretrained(make_tiny_model(tmp_path), dtype=torch.float32)

    def output_at(temperature: float) -> LossOutput:
        objective = Objective(
            target=target,
            loss=LossConfig(),
            tail=Tail.BUCKET,
            temperature=temperature,
            num_tokens=100,
            heads=TeacherHeads(1),
            device=torch.device("cpu"),
        )
        packed = pack_microbatch([sample("a", (5, 6, 7), (8, 9))], [[0.5] * 2], reported=[])
        return objective(Student(network), packed)[0]

    plain, cool = output_at(1.0), output_at(0.5)
    assert torch.equal(plain.loss, cool.loss)
    assert torch.equal(plain.student_logprobs, cool.student_logprobs)


def test_the_preferences_of_a_reported_sample_are_those_of_the_whole_networks_logits(tmp_path: Path) -> None:
    """The fused loss and DeepSpeed's tuples in between; the engine is the bare module."""
    network = AutoModelForCausalLM.from_pretrained(make_tiny_model(tmp_path), dtype=torch.float32)
    samples = [sample("a", (5, 6, 7), (8, 9, 10, 11)), sample("b", (5, 6, 12), (13, 14))]
    objective = Objective(
        target=Target.TOKEN,
        loss=LossConfig(),
        tail=Tail.BUCKET,
        temperature=1.0,
        num_tokens=100,
        heads=TeacherHeads(1),
        device=torch.device("cpu"),
    )
    packed = pack_microbatch(samples, [[0.25] * 4, [0.25] * 2], reported=[1])
    output, tops, nonfinite = objective(Student(network), packed)
    first, second = views_by_sample(output, tops, nonfinite, packed)
    assert first.tops == ()
    logits = network(torch.tensor([[5, 6, 12, 13, 14]])).logits.detach()[0, 2:4, :100].log_softmax(-1)
    assert {top.position: top.student[0] for top in second.tops} == dict(enumerate(logits.argmax(-1).tolist()))
    for top in second.tops:
        assert top.student[1] == pytest.approx(float(logits[top.position].max()), abs=1e-5)
    assert second.student_logprobs.tolist() == pytest.approx([float(logits[0, 13]), float(logits[1, 14])], abs=1e-5)
