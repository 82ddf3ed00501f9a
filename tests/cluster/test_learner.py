"""Real DeepSpeed ranks: every ZeRO stage, one rank and two, held against plain PyTorch and against each other.

The ranks of one group stay the same processes throughout; they are started anew with other settings, which costs a
second instead of half a minute.
"""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from sdft_ray.config import (
    Divergence,
    LearnerConfig,
    LossConfig,
    MismatchCorrection,
    ModelConfig,
    Precision,
    RolloutConfig,
    Schedule,
    Target,
    TeacherConfig,
    TeacherWeights,
)
from sdft_ray.errors import CheckpointError, NonFiniteError
from sdft_ray.learner.group import LearnerGroup
from sdft_ray.learner.worker import LearnerSettings, LearnerWorker
from sdft_ray.records import LogitsPayload, Rollout, Sample, TeacherScores
from sdft_ray.rollout.worker import RolloutWorker
from sdft_ray.teacher.worker import TeacherWorker
from sdft_ray.weights.channel import WeightKind
from sdft_ray.workers import WorkerGroup
from tests.tiny import make_tiny_model

EMA_DECAY = 0.9
NUM_STEPS = 3
LAYOUTS = [(ranks, stage) for ranks in (1, 2) for stage in (0, 1, 2, 3)]


class Rank(LearnerWorker):
    """A rank that can begin again."""

    def begin(self, address: str, port: int, settings: LearnerSettings) -> int:
        self._settings = settings
        return self.start(address, port)


class OpenTeacher(TeacherWorker):
    """A teacher worker that shows its weights."""

    async def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self._network.named_parameters()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def num_tokens(folder: str) -> int:
    return AutoModelForCausalLM.from_pretrained(folder).config.vocab_size


@pytest.fixture(scope="module")
def ranks(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The actors of a group of one and of a group of two, each already met."""
    logs = str(tmp_path_factory.mktemp("logs"))
    actors = {
        size: [
            ray.remote(Rank)
            .options(num_cpus=0, runtime_env={"env_vars": {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}})
            .remote(rank=rank, num_ranks=size, log_dir=logs, settings=None)
            for rank in range(size)
        ]
        for size in (1, 2)
    }
    meeting = {size: ray.get(group[0].rendezvous.remote()) for size, group in actors.items()}
    yield {size: (group, meeting[size], logs) for size, group in actors.items()}
    for group in actors.values():
        for actor in group:
            ray.kill(actor)


@pytest.fixture
def begin(ranks: Any, folder: str, num_tokens: int, tmp_path: Path) -> Any:
    """Starts a group of `size` ranks with the given settings."""

    def make(
        size: int, *, target: Target = Target.TEACHER, loss: LossConfig | None = None, **learner: Any
    ) -> LearnerGroup:
        actors, (address, port), logs = ranks[size]
        # A large epsilon: with the usual one, Adam turns a gradient of rounding errors into a full step.
        options = {
            "learning_rate": 1e-3,
            "warmup_steps": 0,
            "schedule": Schedule.CONSTANT,
            "adam_epsilon": 1e-4,
        } | learner
        cfg = LearnerConfig(**options)
        loss = loss or LossConfig(divergence=Divergence.FORWARD_KL, skip_first_tokens=1)
        settings = LearnerSettings(
            model_path=folder,
            model=ModelConfig(path=folder),
            learner=cfg,
            loss=loss,
            target=target,
            teacher_weights=TeacherWeights.EMA,
            ema_decay=EMA_DECAY,
            temperature=1.0,
            num_tokens=num_tokens,
            num_steps=NUM_STEPS,
            seed=0,
            device="cpu",
        )
        ray.get([actor.begin.remote(address, port, settings) for actor in actors])
        return LearnerGroup(
            WorkerGroup("learner", actors, logs),
            learner=cfg,
            loss=loss,
            sampled=target is Target.TEACHER,
            num_steps=NUM_STEPS,
            num_report_samples=2,
            checkpoints=tmp_path / "checkpoints",
            keep_checkpoints=2,
        )

    return make


@pytest.fixture(scope="module")
def batches(cluster: None, num_tokens: int) -> list[tuple[Sample, ...]]:
    """Three batches of six samples of different lengths, one of them too short to have a counted token."""
    generator = np.random.default_rng(0)

    def sample(index: int) -> Sample:
        prompt = tuple(generator.integers(4, num_tokens, 5 + index).tolist())
        completion = tuple(generator.integers(4, num_tokens, 1 + 2 * index).tolist())
        logits = 3 * generator.normal(size=(len(completion), num_tokens)).astype(np.float32)
        rollout = Rollout(
            prompt_tokens=prompt,
            completion_tokens=completion,
            logprobs=tuple((-generator.random(len(completion)) * 8).tolist()),
            weight_version=0,
            truncated=index == 5,
        )
        payload = ray.put(LogitsPayload(logits=logits))
        scores = TeacherScores(payload=payload, num_tokens=len(completion), teacher_version=0)
        return Sample(example_id=f"example-{index}", epoch=0, rollout=rollout, scores=scores)

    return [tuple(sample(index) for index in range(6)) for _ in range(NUM_STEPS)]


def weights_of(group: LearnerGroup, kind: WeightKind) -> dict[str, torch.Tensor]:
    return ray.get([actor.weights.remote(kind) for actor in group.workers.actors])[0]


def train(group: LearnerGroup, batches: list[tuple[Sample, ...]]) -> list[dict[str, float]]:
    async def steps() -> list[dict[str, float]]:
        return [(await group.step(batch)).metrics for batch in batches]

    return asyncio.run(steps())


def in_plain_pytorch(
    folder: str, batches: list[tuple[Sample, ...]]
) -> tuple[list[float], dict[str, torch.Tensor], dict]:
    """Losses, student and moving average of the same steps, one sample a forward pass, with no code of the learner."""
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, eps=1e-4, weight_decay=0.0)
    average = {name: value.detach().clone() for name, value in network.named_parameters()}
    losses = []
    for batch in batches:
        loss = torch.zeros(())
        for sample in batch:
            prompt, completion = sample.rollout.prompt_tokens, sample.rollout.completion_tokens
            logits = network(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
            student = logits.log_softmax(-1)
            teacher = torch.from_numpy(ray.get(sample.scores.payload).logits.copy()).log_softmax(-1)
            kl = (teacher.exp() * (teacher - student)).sum(-1)[1:]
            if not len(kl):
                continue
            token_logprobs = student.gather(1, torch.tensor(completion)[:, None])[1:, 0].detach()
            ratio = (token_logprobs - torch.tensor(sample.rollout.logprobs[1:])).exp().clamp(max=2.0).mean()
            loss = loss + ratio * kl.mean() / len(batch)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        for name, value in network.named_parameters():
            average[name].mul_(EMA_DECAY).add_(value.detach(), alpha=1 - EMA_DECAY)
    return losses, {name: value.detach() for name, value in network.named_parameters()}, average


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name].float() - other[name].float()).abs().max() <= tolerance, name


@pytest.fixture(scope="module")
def reference(folder: str, batches: list[tuple[Sample, ...]]) -> Any:
    return in_plain_pytorch(folder, batches)


@pytest.mark.parametrize(("size", "stage"), LAYOUTS)
def test_every_layout_takes_the_steps_of_plain_pytorch(
    begin: Any, reference: Any, batches: Any, size: int, stage: int
) -> None:
    """Also with so small microbatches that every step accumulates several."""
    losses, student, average = reference
    group = begin(size, zero_stage=stage, max_tokens_per_microbatch=24)
    metrics = train(group, batches)
    assert [step["learner/loss"] for step in metrics] == pytest.approx(losses, rel=1e-4)
    assert_close(weights_of(group, WeightKind.STUDENT), student, 2e-5)
    assert_close(weights_of(group, WeightKind.EMA), average, 1e-5)
    assert metrics[0]["learner/uncounted_samples"] == 1
    assert group.weight_version == NUM_STEPS


@pytest.mark.parametrize(("size", "stage"), LAYOUTS)
def test_teachers_hold_exactly_what_every_layout_publishes(
    begin: Any, open_teacher: Any, batches: Any, size: int, stage: int
) -> None:
    group = begin(size, zero_stage=stage)
    train(group, batches[:1])
    for kind in WeightKind:
        publication = asyncio.run(group.publish(kind, 1))
        assert ray.get(open_teacher.load_weights.remote(publication)) == 1
        assert_close(ray.get(open_teacher.weights.remote()), weights_of(group, kind), 0.0)
    student, average = weights_of(group, WeightKind.STUDENT), weights_of(group, WeightKind.EMA)
    assert any((student[name] != average[name]).any() for name in student)


@pytest.fixture(scope="module")
def make_worker(cluster: None, folder: str, num_tokens: int, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Starts a worker that reads the tiny model."""
    actors = []

    def make(kind: type, **settings: Any) -> Any:
        shared = {"rank": 0, "model_path": folder, "model": ModelConfig(path=folder), "num_tokens": num_tokens}
        remote = ray.remote(kind).options(num_cpus=0)
        actors.append(remote.remote(log_dir=str(tmp_path_factory.mktemp("logs")), **shared, **settings))
        ray.get(actors[-1].ready.remote())
        return actors[-1]

    yield make
    for actor in actors:
        ray.get(actor.close.remote())
        ray.kill(actor)


@pytest.fixture(scope="module")
def open_teacher(make_worker: Any) -> Any:
    return make_worker(OpenTeacher, teacher=TeacherConfig(), device="cpu")


@pytest.fixture(scope="module")
def engine(make_worker: Any) -> Any:
    return make_worker(
        RolloutWorker,
        rollout=RolloutConfig(kv_cache_gib=0.125, max_new_tokens=8),
        eos_token_ids=(2,),
        max_model_len=128,
        tensor_parallel_size=1,
        shares_device=True,
        seed=0,
    )


@pytest.mark.parametrize(("size", "stage"), LAYOUTS)
def test_engines_sample_from_what_every_layout_publishes(
    begin: Any, engine: Any, folder: str, batches: Any, size: int, stage: int
) -> None:
    group = begin(size, zero_stage=stage, learning_rate=0.01)
    before = ray.get(engine.logprobs.remote(*sequence_of(batches)))
    train(group, batches[:1])
    assert ray.get(engine.load_weights.remote(asyncio.run(group.publish(WeightKind.STUDENT, 1)))) == 1
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    network.load_state_dict(weights_of(group, WeightKind.STUDENT), strict=False)
    network.tie_weights()
    prompt, completion = sequence_of(batches)
    with torch.inference_mode():
        logprobs = network(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    expected = logprobs.gather(1, torch.tensor(completion)[:, None])[:, 0].tolist()
    held = ray.get(engine.logprobs.remote(prompt, completion))
    assert held == pytest.approx(expected, abs=1e-4)
    if (size, stage) == LAYOUTS[0]:
        assert held != pytest.approx(before, abs=1e-2), "the step was too small to tell old weights from new ones"


def sequence_of(batches: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rollout = batches[0][4].rollout
    return rollout.prompt_tokens, rollout.completion_tokens


@pytest.mark.parametrize(("size", "stage"), [(1, 0), (2, 2), (2, 3)])
def test_a_checkpoint_goes_on_as_if_nothing_had_happened(begin: Any, batches: Any, size: int, stage: int) -> None:
    group = begin(size, zero_stage=stage)
    train(group, batches[:2])
    asyncio.run(group.save_checkpoint({"num_examples": 12}))
    expected = train(group, batches[2:])[0]["learner/loss"]
    student, average = weights_of(group, WeightKind.STUDENT), weights_of(group, WeightKind.EMA)

    resumed = begin(size, zero_stage=stage)
    assert asyncio.run(resumed.resume(resumed._checkpoints / "step-000002")) == {"num_examples": 12}
    assert train(resumed, batches[2:])[0]["learner/loss"] == expected
    assert_close(weights_of(resumed, WeightKind.STUDENT), student, 0.0)
    assert_close(weights_of(resumed, WeightKind.EMA), average, 0.0)


def test_a_checkpoint_of_another_layout_is_refused(begin: Any, batches: Any) -> None:
    group = begin(1, zero_stage=1)
    train(group, batches[:1])
    asyncio.run(group.save_checkpoint({}))
    other = begin(1, zero_stage=2)
    with pytest.raises(CheckpointError, match="learner.zero_stage"):
        asyncio.run(other.resume(other._checkpoints / "step-000001"))


def test_only_the_newest_checkpoints_are_kept(begin: Any, batches: Any) -> None:
    group = begin(1)
    for batch in batches:
        train(group, [batch])
        asyncio.run(group.save_checkpoint({}))
    assert sorted(path.name for path in group._checkpoints.iterdir()) == ["step-000002", "step-000003"]


def test_the_loss_of_a_repeated_batch_falls(begin: Any, batches: Any) -> None:
    metrics = train(begin(1), [batches[0]] * 8)
    assert metrics[-1]["learner/loss"] < 0.8 * metrics[0]["learner/loss"]


def test_bf16_training_follows_fp32_and_keeps_its_masters(begin: Any, batches: Any) -> None:
    exact = train(begin(1, zero_stage=2), batches)
    for stage in (1, 2, 3):
        group = begin(1, zero_stage=stage, precision=Precision.BFLOAT16, max_tokens_per_microbatch=24)
        metrics = train(group, batches)
        assert [step["learner/loss"] for step in metrics] == pytest.approx(
            [step["learner/loss"] for step in exact], rel=0.05
        )
        student = weights_of(group, WeightKind.STUDENT)
        assert any((value != value.bfloat16().float()).any() for value in student.values())


def test_gradient_checkpointing_changes_nothing_but_memory(begin: Any, batches: Any) -> None:
    plain = train(begin(1), batches)
    saving = train(begin(1, gradient_checkpointing=True), batches)
    assert [step["learner/loss"] for step in saving] == pytest.approx(
        [step["learner/loss"] for step in plain], rel=1e-5
    )


@pytest.mark.parametrize("target", [Target.TOKEN, Target.TOKEN_DFT])
def test_token_targets_need_no_teacher(begin: Any, batches: Any, target: Target) -> None:
    loss = LossConfig(skip_first_tokens=0, mismatch=MismatchCorrection.NONE)
    group = begin(1, target=target, loss=loss)
    without_scores = tuple(
        Sample(
            example_id=sample.example_id,
            epoch=0,
            rollout=sample.rollout,
            scores=TeacherScores(payload=None, num_tokens=sample.scores.num_tokens, teacher_version=0),
        )
        for sample in batches[0]
    )
    metrics = train(group, [without_scores] * 6)
    assert metrics[-1]["learner/divergence_nats"] < metrics[0]["learner/divergence_nats"]
    assert "learner/mismatch_max_nats" not in metrics[0]


def test_a_loss_that_is_not_finite_names_its_sample_and_spares_the_weights(
    begin: Any, batches: Any, folder: str
) -> None:
    bad = batches[0][3]
    logits = np.full_like(ray.get(bad.scores.payload).logits, np.nan)
    scores = TeacherScores(payload=ray.put(LogitsPayload(logits=logits)), num_tokens=len(logits), teacher_version=0)
    poisoned = Sample(example_id="the-bad-one", epoch=0, rollout=bad.rollout, scores=scores)
    group = begin(1)
    with pytest.raises(NonFiniteError, match="loss is NaN.*step 1, samples: the-bad-one"):
        train(group, [(*batches[0][:3], poisoned)])
    before = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert_close(weights_of(group, WeightKind.STUDENT), dict(before.named_parameters()), 0.0)


def test_the_exported_folder_is_the_student(begin: Any, batches: Any, tmp_path: Path) -> None:
    for size, stage in ((1, 0), (2, 3)):
        group = begin(size, zero_stage=stage)
        train(group, batches[:1])
        folder = tmp_path / f"model-{size}-{stage}"
        asyncio.run(group.export(folder))
        exported = dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())
        assert_close(exported, weights_of(group, WeightKind.STUDENT), 0.0)


def test_reports_hold_the_divergence_of_each_token_of_the_right_sample(begin: Any, batches: Any) -> None:
    async def report_of(group: LearnerGroup) -> Any:
        return await group.step(batches[0])

    one = asyncio.run(report_of(begin(1)))
    two = asyncio.run(report_of(begin(2, max_tokens_per_microbatch=24)))
    assert [sample.example_id for sample in one.samples] == ["example-0", "example-1"]
    for single, double in zip(one.samples, two.samples, strict=True):
        assert len(single.divergence) == len(single.completion_tokens)
        assert double.divergence == pytest.approx(single.divergence, rel=1e-4)
