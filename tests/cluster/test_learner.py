"""Real DeepSpeed ranks: every ZeRO stage, one rank and two, held against plain PyTorch and against each other.

The ranks of one group stay the same processes throughout; they are started anew with other settings, which costs a
second instead of half a minute.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from sdft_ray.config import (
    AdapterConfig,
    AdapterKind,
    Channel,
    Divergence,
    LearnerConfig,
    LossConfig,
    MethodConfig,
    MismatchCorrection,
    ModelConfig,
    Normalization,
    Payload,
    Precision,
    RolloutConfig,
    Saving,
    Schedule,
    StageBoundaryConfig,
    Target,
    TeacherConfig,
    TeacherEma,
)
from sdft_ray.errors import BrokenWeightsError, CheckpointError, NonFiniteError, WeightVersionError
from sdft_ray.learner.checkpoint import read_state
from sdft_ray.learner.group import LearnerGroup
from sdft_ray.learner.manifest import check_sound
from sdft_ray.learner.saving import SavingPlan
from sdft_ray.learner.schedule import LearnerStage, StagePlan
from sdft_ray.learner.settings import LearnerSettings
from sdft_ray.learner.worker import LearnerWorker
from sdft_ray.models.adapter import factor_pairs
from sdft_ray.models.network import load_network
from sdft_ray.models.state import trained_parameters
from sdft_ray.records import HiddenPayload, LogitsPayload, Rollout, Sample, TeacherScores
from sdft_ray.rollout.worker import RolloutWorker
from sdft_ray.teacher.pool import TeacherPool
from sdft_ray.teacher.transformers_worker import TransformersTeacher
from sdft_ray.weights.channel import WeightChannel, WeightKind, open_publication
from sdft_ray.workers.group import WorkerGroup
from tests.tiny import GUARD_ROWS, make_tiny_model
from tests.weights.plans import make_plan

EMA_DECAY = 0.9
NUM_STEPS = 3
BATCH_SIZE = 6
LAYOUTS = [(ranks, stage) for ranks in (1, 2) for stage in (0, 1, 2, 3)]


class Rank(LearnerWorker):
    """A rank that can begin again."""

    def begin(self, address: str, port: int, settings: LearnerSettings) -> int:
        self._settings = settings
        return self._make() if torch.distributed.is_initialized() else self.start(address, port)

    def num_accumulated(self) -> int:
        """Microbatches since the last optimizer step."""
        return len(self._inner._step.sums)

    def poison_gradients(self) -> None:
        """From now on the loss stays as it is and every gradient of the embedding's rows is NaN."""

        def poison(module: torch.nn.Module, inputs: Any, rows: torch.Tensor) -> None:
            rows.register_hook(lambda gradient: gradient * float("nan"))

        self._inner._network.get_input_embeddings().register_forward_hook(poison)

    def break_weight(self) -> None:
        """Makes the last value that this rank owns of its first parameter infinite."""
        next(self._inner._engine.masters()).values.data[-1] = float("inf")

    def leave_and_return(self) -> None:
        """What a rank on a GPU does in the turn of another role."""
        self._inner._engine.offload()()

    def moments(self) -> dict[str, torch.Tensor]:
        """What the optimizer of this rank remembers."""
        return {str(index): values.clone() for index, values in enumerate(self._inner._engine.moments())}


class OpenTeacher(TransformersTeacher):
    """A teacher worker that shows its weights."""

    async def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self._network._network.named_parameters()}


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
def checkpoints(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def begin(ranks: Any, folder: str, num_tokens: int, checkpoints: Path) -> Any:
    """Starts a group of `size` ranks with the given settings."""

    def make(
        size: int,
        *,
        target: Target = Target.TEACHER,
        loss: LossConfig | None = None,
        payload: Payload = Payload.LOGITS,
        channel: Channel = Channel.OBJECT_STORE,
        num_stages: int = 1,
        stage_boundary: StageBoundaryConfig | None = None,
        saving: Saving = Saving.BLOCKING,
        adapter: AdapterConfig | None = None,
        **learner: Any,
    ) -> LearnerGroup:
        model = ModelConfig(path=folder, dtype=Precision.FLOAT32, adapter=adapter or AdapterConfig())
        actors, (address, port), logs = ranks[size]
        # A large epsilon: with the usual one, Adam turns a gradient of rounding errors into a full step.
        options = {
            "learning_rate": 1e-3,
            "warmup_steps": 0,
            "schedule": Schedule.CONSTANT,
            "adam_epsilon": 1e-4,
        } | learner
        cfg = LearnerConfig(**{"precision": Precision.FLOAT32} | options)
        loss = loss or LossConfig(divergence=Divergence.FORWARD_KL, skip_first_tokens=1)
        stage = LearnerStage(
            num_steps=NUM_STEPS // num_stages,
            batch_size=BATCH_SIZE,
            skip_first_tokens=loss.skip_first_tokens,
            learner=cfg,
        )
        plan = StagePlan([stage] * num_stages)
        settings = LearnerSettings(
            model_path=folder,
            model=model,
            learner=cfg,
            loss=loss,
            target=target,
            teacher=TeacherConfig(ema_decay=EMA_DECAY, payload=payload),
            teacher_path=folder,
            max_staleness=0,
            temperature=1.0,
            num_tokens=num_tokens,
            plan=plan,
            stage_boundary=stage_boundary or StageBoundaryConfig(),
            weights=make_plan(
                channel,
                num_ranks=size,
                learner=cfg,
                model=model,
                method=MethodConfig(target=target),
                batch_size=BATCH_SIZE,
                loss=loss,
            ),
            guard_rows=GUARD_ROWS,
            max_len=64,
            seed=0,
            device="cpu",
        )
        packings = ray.get([actor.begin.remote(address, port, settings) for actor in actors])
        group = LearnerGroup(
            WorkerGroup("learner", actors, logs),
            learner=cfg,
            loss=loss,
            plan=plan,
            sampled=target is Target.TEACHER,
            num_report_samples=2,
            saving=SavingPlan(root=checkpoints, keep=2, saving=saving),
        )
        (group.packing,) = set(packings)
        return group

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
            num_sampled=len(completion),
        )
        payload = ray.put(LogitsPayload(logits=logits))
        scores = TeacherScores(payload=payload, num_tokens=len(completion), teacher_version=0)
        return Sample(example_id=f"example-{index}", epoch=0, rollout=rollout, scores=scores)

    return [tuple(sample(index) for index in range(BATCH_SIZE)) for _ in range(NUM_STEPS)]


def weights_of(group: LearnerGroup, kind: WeightKind) -> dict[str, torch.Tensor]:
    return asyncio.run(group.workers.on_all(lambda actor: actor.weights.remote(kind)))[0]


def train(group: LearnerGroup, batches: list[tuple[Sample, ...]]) -> list[dict[str, float]]:
    async def steps() -> list[dict[str, float]]:
        return [(await group.step(arriving(batch))).metrics for batch in batches]

    return asyncio.run(steps())


async def arriving(batch: tuple[Sample, ...], pause_s: float = 0.0) -> AsyncIterator[Sample]:
    for sample in batch:
        await asyncio.sleep(pause_s)
        yield sample


def in_plain_pytorch(
    folder: str, batches: list[tuple[Sample, ...]]
) -> tuple[list[float], dict[str, torch.Tensor], dict]:
    """Losses, student and moving average of the same steps, one sample a forward pass, with no code of the learner."""
    return train_in_plain_pytorch(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), batches)


def train_in_plain_pytorch(
    network: Any, batches: list[tuple[Sample, ...]]
) -> tuple[list[float], dict[str, torch.Tensor], dict]:
    """The same of a network whose trained parameters are those that require a gradient."""
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3, eps=1e-4, weight_decay=0.0)
    average = {name: value.detach().clone() for name, value in trained.items()}
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
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        for name, value in trained.items():
            average[name].mul_(EMA_DECAY).add_(value.detach(), alpha=1 - EMA_DECAY)
    return losses, {name: value.detach() for name, value in trained.items()}, average


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


@pytest.mark.parametrize(("size", "stage"), [(1, 2), (2, 2), (1, 3), (2, 3)])
def test_an_optimizer_in_host_memory_takes_the_same_steps(
    begin: Any, reference: Any, batches: Any, size: int, stage: int
) -> None:
    """Its masters, moments and average; and a checkpoint of them goes on without it."""
    losses, student, average = reference
    group = begin(size, zero_stage=stage, offload=True, max_tokens_per_microbatch=24)
    metrics = train(group, batches)
    assert [step["learner/loss"] for step in metrics] == pytest.approx(losses, rel=1e-4)
    assert_close(weights_of(group, WeightKind.STUDENT), student, 2e-5)
    assert_close(weights_of(group, WeightKind.EMA), average, 1e-5)


@pytest.mark.parametrize(("size", "stage"), [(1, 2), (2, 3)])
def test_a_checkpoint_of_an_optimizer_in_host_memory_goes_on_anywhere(
    begin: Any, batches: Any, checkpoints: Path, size: int, stage: int
) -> None:
    group = begin(size, zero_stage=stage, offload=True)
    (expected,) = save_and_go_on(group, batches)
    for resumed in (begin(size, zero_stage=stage, offload=True), begin(1, zero_stage=0)):
        asyncio.run(resumed.resume(checkpoints / "step-000002"))
        assert train(resumed, batches[2:])[0]["learner/loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.BFLOAT16])
@pytest.mark.parametrize("offload", [False, True])
def test_weights_and_moments_that_left_the_device_come_back_as_they_were(
    begin: Any, batches: Any, size: int, precision: Precision, offload: bool
) -> None:
    """DeepSpeed forgets meanwhile where the masters' fragments lie; behind the return they are published again."""
    (kept, expected), (moved, got) = (
        leave_between_steps(begin(size, zero_stage=2, precision=precision, offload=offload), batches, leaves)
        for leaves in (False, True)
    )
    assert got == expected
    assert_close(moved, kept, 0.0)


def leave_between_steps(group: LearnerGroup, batches: Any, leaves: bool) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The student behind two steps between which it has left the device or not, and the losses of two more."""
    losses = [step["learner/loss"] for step in train(group, batches[:2])]
    if leaves:
        asyncio.run(group.workers.on_all(lambda actor: actor.leave_and_return.remote()))
    student = {name: values.clone() for name, values in weights_of(group, WeightKind.STUDENT).items()}
    return student, losses + [step["learner/loss"] for step in train(group, batches[2:])]


def with_payload(sample: Sample, payload: Any, teacher_version: int) -> Sample:
    scores = replace(sample.scores, payload=ray.put(payload), teacher_version=teacher_version)
    return replace(sample, scores=scores)


@pytest.mark.parametrize(("size", "stage"), LAYOUTS)
def test_hidden_states_and_the_learners_own_heads_are_the_teachers_logits(
    begin: Any, batches: Any, size: int, stage: int
) -> None:
    """Every step is scored by the newest teacher, whose head only the learner has averaged."""
    generator = np.random.default_rng(1)
    group = begin(size, zero_stage=stage, max_tokens_per_microbatch=24, payload=Payload.HIDDEN)
    losses, as_logits = [], []
    for version, batch in enumerate(batches):
        head = weights_of(group, WeightKind.EMA)["model.embed_tokens.weight"].numpy()
        hidden = [generator.normal(size=(sample.scores.num_tokens, head.shape[1])).astype("f4") for sample in batch]
        of_hidden, of_logits = (
            tuple(with_payload(*pair, version) for pair in zip(batch, payloads, strict=True))
            for payloads in (
                [HiddenPayload(hidden=states) for states in hidden],
                [LogitsPayload(logits=states @ head.T) for states in hidden],
            )
        )
        losses += [step["learner/loss"] for step in train(group, [of_hidden])]
        as_logits.append(of_logits)
    student = weights_of(group, WeightKind.STUDENT)
    other = begin(size, zero_stage=stage, payload=Payload.LOGITS)
    assert losses == pytest.approx([step["learner/loss"] for step in train(other, as_logits)], rel=1e-5)
    assert_close(student, weights_of(other, WeightKind.STUDENT), 1e-5)


def test_a_score_of_another_version_than_the_learners_heads_is_refused(begin: Any, batches: Any) -> None:
    group = begin(1, payload=Payload.HIDDEN)
    states = [np.ones((sample.scores.num_tokens, 64), "f4") for sample in batches[0]]
    early = [with_payload(sample, HiddenPayload(hidden=own), 1) for sample, own in zip(batches[0], states, strict=True)]
    with pytest.raises(WeightVersionError, match="scored with weights 1, but the learner holds .* versions 0"):
        train(group, [tuple(early)])


@pytest.mark.parametrize("normalization", Normalization)
@pytest.mark.parametrize(("size", "stage"), LAYOUTS)
def test_rounds_as_samples_arrive_end_where_one_round_of_the_whole_batch_does(
    begin: Any, batches: Any, size: int, stage: int, normalization: Normalization
) -> None:
    loss = LossConfig(divergence=Divergence.FORWARD_KL, skip_first_tokens=1, normalization=normalization)

    async def steps(group: LearnerGroup) -> list[float]:
        reports = [await group.step(arriving(batch, pause_s=0.01)) for batch in batches]
        return [report.metrics["learner/loss"] for report in reports]

    one_round = begin(size, zero_stage=stage, loss=loss)
    losses = asyncio.run(steps(one_round))
    student, average = weights_of(one_round, WeightKind.STUDENT), weights_of(one_round, WeightKind.EMA)
    in_rounds = begin(size, zero_stage=stage, loss=loss, max_tokens_per_microbatch=24)
    assert asyncio.run(steps(in_rounds)) == pytest.approx(losses, rel=1e-5)
    assert_close(weights_of(in_rounds, WeightKind.STUDENT), student, 1e-5)
    assert_close(weights_of(in_rounds, WeightKind.EMA), average, 1e-5)


@pytest.mark.parametrize("size", [1, 2])
def test_when_samples_arrive_changes_no_bit(begin: Any, batches: Any, size: int) -> None:
    async def loss_of(group: LearnerGroup, pause_s: float) -> float:
        return (await group.step(arriving(batches[0], pause_s))).metrics["learner/loss"]

    weights = []
    losses = set()
    for pause_s in (0.0, 0.03):
        group = begin(size, max_tokens_per_microbatch=24)
        losses.add(asyncio.run(loss_of(group, pause_s)))
        weights.append(weights_of(group, WeightKind.STUDENT))
    assert len(losses) == 1
    assert_close(*weights, tolerance=0.0)


@pytest.mark.parametrize("size", [1, 2])
def test_ranks_have_trained_on_the_first_samples_before_the_last_one_is_there(
    begin: Any, batches: Any, size: int
) -> None:
    group = begin(size, max_tokens_per_microbatch=24)
    accumulated: list[int] = []

    async def looking() -> AsyncIterator[Sample]:
        async for sample in arriving(batches[0]):
            if sample.example_id == "example-5":
                # A rank answers its calls in order, so what was sent before is done.
                await asyncio.sleep(0.1)
                accumulated.extend(await group.workers.on_all(lambda actor: actor.num_accumulated.remote()))
            yield sample

    report = asyncio.run(group.step(looking()))
    assert len(accumulated) == size
    assert all(count > 0 for count in accumulated)
    assert report.metrics["learner/padded_share"] == 0
    assert report.metrics["loop/wait_s"] > 0.0


@pytest.mark.parametrize("channel", [Channel.OBJECT_STORE, Channel.SHARED_MEMORY])
@pytest.mark.parametrize(("size", "stage"), LAYOUTS)
def test_teachers_hold_exactly_what_every_layout_publishes(
    begin: Any, open_teacher: Any, batches: Any, size: int, stage: int, channel: Channel
) -> None:
    group = begin(size, zero_stage=stage, channel=channel)
    for version in (1, 2):
        train(group, [batches[version]])
        for kind in WeightKind:
            publication = asyncio.run(group.publish(kind, version))
            assert ray.get(open_teacher.load_weights.remote(publication)) == version
            assert_close(ray.get(open_teacher.weights.remote()), weights_of(group, kind), 0.0)
    student, average = weights_of(group, WeightKind.STUDENT), weights_of(group, WeightKind.EMA)
    assert any((student[name] != average[name]).any() for name in student)


@pytest.mark.parametrize("channel", [Channel.OBJECT_STORE, Channel.SHARED_MEMORY])
def test_a_teacher_that_averages_the_student_itself_is_the_learner_s_average_also_after_a_resume(
    begin: Any, open_teacher: Any, batches: Any, tmp_path: Path, channel: Channel
) -> None:
    def load(group: LearnerGroup, pool: TeacherPool) -> None:
        version = group.weight_version
        asyncio.run(pool.load_weights(version))
        average = weights_of(group, WeightKind.EMA)
        assert_close(ray.get(open_teacher.weights.remote()), average, 1e-6)
        assert any((value != average[name]).any() for name, value in weights_of(group, WeightKind.STUDENT).items())

    def pool_of(group: LearnerGroup) -> TeacherPool:
        receivers = WorkerGroup("teacher", [open_teacher], str(tmp_path))
        return TeacherPool(receivers, WeightChannel(group.publish, 60.0), make_plan(teacher_ema=TeacherEma.RECEIVER))

    group = begin(2, zero_stage=2, channel=channel, learning_rate=0.01)
    ray.get(open_teacher.load_weights.remote(asyncio.run(group.publish(WeightKind.EMA, 0))))
    pool = pool_of(group)
    for batch in batches[:2]:
        train(group, [batch])
        load(group, pool)
    asyncio.run(group.save_checkpoint({}, wait=True))

    resumed = begin(2, zero_stage=2, channel=channel, learning_rate=0.01)
    asyncio.run(resumed.resume(tmp_path / "checkpoints" / "step-000002"))
    pool = pool_of(resumed)
    load(resumed, pool)
    train(resumed, batches[2:])
    load(resumed, pool)
    with pytest.raises(WeightVersionError, match="holds version 3 and was given 3"):
        ray.get(open_teacher.average_weights.remote(asyncio.run(resumed.publish(WeightKind.STUDENT, 3))))


@pytest.fixture(scope="module")
def make_worker(cluster: None, folder: str, num_tokens: int, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Starts a worker that reads the tiny model."""
    actors = []

    def make(kind: type, **settings: Any) -> Any:
        model = ModelConfig(path=folder, dtype=Precision.FLOAT32)
        shared = {"rank": 0, "model_path": folder, "model": model, "num_tokens": num_tokens}
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
    teacher = TeacherConfig(ema_decay=EMA_DECAY)
    return make_worker(
        OpenTeacher,
        teacher=teacher,
        temperature=1.0,
        device="cpu",
        weights=make_plan(Channel.OBJECT_STORE),
        guard_rows=GUARD_ROWS,
        max_len=128,
    )


@pytest.fixture(scope="module")
def engine(make_worker: Any) -> Any:
    return make_worker(
        RolloutWorker,
        rollout=RolloutConfig(kv_cache_gib=0.125, max_new_tokens=8),
        eos_token_ids=(2,),
        max_model_len=128,
        tensor_parallel_size=1,
        shares_device=True,
        sleeps=False,
        weights=make_plan(Channel.SHARED_MEMORY),
        seed=0,
    )


@pytest.mark.parametrize(("size", "stage"), LAYOUTS)
def test_engines_sample_from_what_every_layout_publishes(
    begin: Any, engine: Any, folder: str, batches: Any, size: int, stage: int
) -> None:
    group = begin(size, zero_stage=stage, learning_rate=0.01, channel=Channel.SHARED_MEMORY)
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
        train(group, batches[1:2])
        shared = ray.get(engine.logprobs.remote(prompt, completion))
        assert shared != pytest.approx(held, abs=1e-3), "the embedding is a copy of what was published"


def sequence_of(batches: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rollout = batches[0][4].rollout
    return rollout.prompt_tokens, rollout.completion_tokens


@pytest.mark.parametrize(
    ("size", "stage", "saving", "precision"),
    [
        (1, 0, Saving.BLOCKING, Precision.FLOAT32),
        (1, 1, Saving.BLOCKING, Precision.BFLOAT16),
        (2, 2, Saving.BACKGROUND, Precision.FLOAT32),
        (2, 2, Saving.BLOCKING, Precision.BFLOAT16),
        (2, 3, Saving.BLOCKING, Precision.FLOAT32),
    ],
)
def test_a_checkpoint_goes_on_as_if_nothing_had_happened(
    begin: Any, batches: Any, checkpoints: Path, size: int, stage: int, saving: Saving, precision: Precision
) -> None:
    """In the background the third step is trained before the second one's weights are on the disk."""
    group = begin(size, zero_stage=stage, saving=saving, precision=precision)
    (expected,) = save_and_go_on(group, batches)
    student, average = weights_of(group, WeightKind.STUDENT), weights_of(group, WeightKind.EMA)

    resumed = begin(size, zero_stage=stage, precision=precision)
    check_sound(checkpoints / "step-000002")
    assert read_state(checkpoints / "step-000002")["data"] == {"num_examples": 12}
    asyncio.run(resumed.resume(checkpoints / "step-000002"))
    assert train(resumed, batches[2:])[0]["learner/loss"] == expected
    assert_close(weights_of(resumed, WeightKind.STUDENT), student, 0.0)
    assert_close(weights_of(resumed, WeightKind.EMA), average, 0.0)


def save_and_go_on(group: LearnerGroup, batches: Any) -> list[float]:
    """Two steps, a checkpoint, and the third step's loss."""

    async def steps() -> list[float]:
        for batch in batches[:2]:
            await group.step(arriving(batch))
        await group.save_checkpoint({"num_examples": 12}, wait=False)
        losses = [(await group.step(arriving(batch))).metrics["learner/loss"] for batch in batches[2:]]
        await group.checkpoints.finish()
        return losses

    return asyncio.run(steps())


RESHARDED = {
    "1 rank to 2": ((1, 2), (2, 2)),
    "2 ranks to 1, ZeRO 3 to 0": ((2, 3), (1, 0)),
    "ZeRO 0 to 2": ((2, 0), (2, 2)),
    "ZeRO 0 on two ranks to 3": ((2, 0), (2, 3)),
    "1 rank to 2 without ZeRO": ((1, 0), (2, 0)),
}


@pytest.mark.parametrize("what", RESHARDED)
def test_a_checkpoint_is_resumed_on_other_ranks_and_in_another_zero_stage(
    begin: Any, batches: Any, checkpoints: Path, what: str
) -> None:
    """Ranks sum in other orders, so the third step's loss is equal within rounding; the weights resumed are equal."""
    (size, stage), (other_size, other_stage) = RESHARDED[what]
    group = begin(size, zero_stage=stage)
    train(group, batches[:2])
    asyncio.run(group.save_checkpoint({}, wait=True))
    kept = {kind: weights_of(group, kind) for kind in WeightKind}
    expected = train(group, batches[2:])[0]["learner/loss"]
    trained = {kind: weights_of(group, kind) for kind in WeightKind}

    resumed = begin(other_size, zero_stage=other_stage)
    asyncio.run(resumed.resume(checkpoints / "step-000002"))
    for kind in WeightKind:
        assert_close(weights_of(resumed, kind), kept[kind], 0.0)
    assert train(resumed, batches[2:])[0]["learner/loss"] == pytest.approx(expected, abs=1e-6)
    for kind in WeightKind:  # which the moments have a part in
        assert_close(weights_of(resumed, kind), trained[kind], 1e-6)


def test_a_checkpoint_without_the_average_that_this_run_keeps_is_refused(
    begin: Any, batches: Any, checkpoints: Path
) -> None:
    group = begin(1, target=Target.TOKEN, loss=LossConfig(mismatch=MismatchCorrection.NONE))
    asyncio.run(group.save_checkpoint({}, wait=True))
    other = begin(1)
    with pytest.raises(CheckpointError, match="saved without a moving average"):
        asyncio.run(other.resume(checkpoints / "step-000000"))


def test_only_the_newest_checkpoints_are_kept(begin: Any, batches: Any, checkpoints: Path) -> None:
    group = begin(1)
    for batch in batches:
        train(group, [batch])
        asyncio.run(group.save_checkpoint({}, wait=True))
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-000002", "step-000003"]


def test_the_loss_of_a_repeated_batch_falls(begin: Any, batches: Any) -> None:
    metrics = train(begin(1), [batches[0]] * 8)
    assert metrics[-1]["learner/loss"] < 0.8 * metrics[0]["learner/loss"]


def test_bf16_training_follows_fp32_and_keeps_its_masters(begin: Any, batches: Any) -> None:
    exact = train(begin(1, zero_stage=2), batches)
    for stage, offload in ((1, False), (2, False), (3, False), (2, True), (3, True)):
        group = begin(1, zero_stage=stage, offload=offload, precision=Precision.BFLOAT16, max_tokens_per_microbatch=24)
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


@pytest.mark.parametrize("payload", [Payload.LOGITS, Payload.HIDDEN])
def test_zero_3_with_gradient_checkpointing_on_two_ranks_takes_the_steps_of_one_plain_rank(
    begin: Any, batches: Any, payload: Payload
) -> None:
    """The settings of the paper's presets, with several microbatches a step."""
    if payload is Payload.HIDDEN:
        generator = np.random.default_rng(2)
        batches = [
            tuple(
                with_payload(
                    sample,
                    HiddenPayload(hidden=generator.normal(size=(sample.scores.num_tokens, 64)).astype("f4")),
                    version,
                )
                for sample in batch
            )
            for version, batch in enumerate(batches)
        ]
    plain = train(begin(1, zero_stage=0, payload=payload), batches)
    group = begin(2, zero_stage=3, gradient_checkpointing=True, payload=payload, max_tokens_per_microbatch=24)
    saving = train(group, batches)
    for key in ("learner/loss", "learner/grad_norm", "learner/divergence_nats"):
        assert [step[key] for step in saving] == pytest.approx([step[key] for step in plain], rel=1e-5), key


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
    group = begin(1, max_tokens_per_microbatch=24)

    async def first_samples() -> AsyncIterator[Sample]:
        async for sample in arriving((*batches[0][:3], poisoned, batches[0][4])):
            yield sample
        await asyncio.Event().wait()  # the error comes while the learner waits for the last

    with pytest.raises(NonFiniteError, match="infinite: what the teacher makes.*step 1, samples: the-bad-one"):
        asyncio.run(asyncio.wait_for(group.step(first_samples()), timeout=60))
    before = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert_close(weights_of(group, WeightKind.STUDENT), dict(before.named_parameters()), 0.0)


@pytest.mark.parametrize(
    ("size", "stage", "precision", "offload"),
    [(*layout, Precision.FLOAT32, False) for layout in LAYOUTS]
    + [(2, stage, Precision.BFLOAT16, False) for stage in (1, 2, 3)]
    + [(1, 2, Precision.FLOAT32, True), (2, 2, Precision.BFLOAT16, True), (2, 3, Precision.FLOAT32, True)],
)
def test_a_gradient_that_is_not_finite_reaches_neither_masters_nor_moments_nor_average(
    begin: Any, batches: Any, size: int, stage: int, precision: Precision, offload: bool
) -> None:
    """Also where only one rank made it."""

    def held() -> list[dict[str, torch.Tensor]]:
        moments = asyncio.run(group.workers.on_all(lambda actor: actor.moments.remote()))
        return [weights_of(group, WeightKind.STUDENT), weights_of(group, WeightKind.EMA), *moments]

    group = begin(size, zero_stage=stage, precision=precision, offload=offload)
    train(group, batches[:1])
    before = held()
    assert all(before)
    asyncio.run(group.workers.on_first(lambda actor: actor.poison_gradients.remote()))
    with pytest.raises(
        NonFiniteError, match="NaN or infinite: the gradient of model.embed_tokens.weight .learner. in step 2"
    ):
        train(group, batches[1:2])
    for own, other in zip(before, held(), strict=True):
        assert_close(own, other, 0.0)
    assert group.weight_version == 1


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_rank_whose_loss_is_not_finite_leaves_no_other_rank_waiting(begin: Any, batches: Any, stage: int) -> None:
    """Its neighbour is in the collectives of the backward pass, and answers only once both have made them."""
    good = batches[0]
    logits = np.full_like(ray.get(good[4].scores.payload).logits, np.nan)
    poisoned = with_payload(good[4], LogitsPayload(logits=logits), 0)
    group = begin(2, zero_stage=stage)
    before = weights_of(group, WeightKind.STUDENT)
    with pytest.raises(NonFiniteError, match="NaN or infinite: what the teacher makes .* samples: example-4") as raised:
        train(group, [(*good[:4], poisoned, good[5])])
    assert [sample.example_id for sample in raised.value.samples] == ["example-4"]
    held = asyncio.run(
        asyncio.wait_for(group.workers.on_all(lambda actor: actor.weights.remote(WeightKind.STUDENT)), 20)
    )
    assert_close(held[0], before, 0.0)


@pytest.mark.parametrize(("size", "stage"), [(1, 0), (2, 1), (2, 2), (2, 3)])
def test_a_broken_weight_is_named_by_all_ranks_and_never_saved(
    begin: Any, batches: Any, tmp_path: Path, size: int, stage: int
) -> None:
    group = begin(size, zero_stage=stage)
    train(group, batches[:1])
    asyncio.run(group.workers.on_first(lambda actor: actor.break_weight.remote()))
    refused = asyncio.run(_refusals(group, lambda actor: actor.save.remote(str(tmp_path / "new"), False)))
    assert len(refused) == size and len(set(refused)) == 1
    assert "the weight model.embed_tokens.weight of the student is NaN or infinite after step 1" in refused[0]
    refused = asyncio.run(_refusals(group, lambda actor: actor.export.remote(str(tmp_path / "model"))))
    assert len(refused) == size and not (tmp_path / "new").exists() and not (tmp_path / "model").exists()


async def _refusals(group: LearnerGroup, call: Any) -> list[str]:
    """What every rank says against `call`."""

    async def refusal(actor: Any) -> str:
        try:
            await call(actor)
        except BrokenWeightsError as error:
            return str(error.cause)  # type: ignore[attr-defined]
        return ""

    answers = await asyncio.wait_for(group.workers.on_all(refusal), timeout=30)
    return [answer for answer in answers if answer]


def test_the_exported_folder_is_the_student(begin: Any, batches: Any, tmp_path: Path) -> None:
    for size, stage in ((1, 0), (2, 3)):
        group = begin(size, zero_stage=stage)
        train(group, batches[:1])
        folder = tmp_path / f"model-{size}-{stage}"
        asyncio.run(group.export(folder))
        network = AutoModelForCausalLM.from_pretrained(folder)
        assert_close(dict(network.named_parameters()), weights_of(group, WeightKind.STUDENT), 0.0)
        assert asyncio.run(group.export_gap(folder, GUARD_ROWS)) < 1e-6
        for row, logprobs in zip(GUARD_ROWS, asyncio.run(group.logprobs(GUARD_ROWS)), strict=True):
            tokens, num_prompt = (*row.prompt_tokens, *row.completion_tokens), len(row.prompt_tokens)
            expected = network(torch.tensor([tokens])).logits[0, num_prompt - 1 : -1].log_softmax(-1)
            expected = expected.gather(1, torch.tensor(row.completion_tokens)[:, None])[:, 0]
            assert logprobs == pytest.approx(expected.tolist(), abs=1e-5)
        train(group, batches[1:2])  # what was scored in between has left nothing behind
        asyncio.run(group.export(folder))
        assert asyncio.run(group.export_gap(folder, GUARD_ROWS)) < 1e-6


def test_reports_hold_the_divergence_of_each_token_of_the_right_sample(begin: Any, batches: Any) -> None:
    async def report_of(group: LearnerGroup) -> Any:
        return await group.step(arriving(batches[0]))

    one = asyncio.run(report_of(begin(1)))
    two = asyncio.run(report_of(begin(2, max_tokens_per_microbatch=24)))
    assert [sample.example_id for sample in one.samples] == ["example-0", "example-1"]
    for single, double in zip(one.samples, two.samples, strict=True):
        for name in ("divergence", "student_logprobs", "teacher_logprobs", "student_entropy", "teacher_entropy"):
            of_single, of_double = getattr(single.views, name), getattr(double.views, name)
            assert len(of_single) == len(single.completion_tokens)
            assert of_double == pytest.approx(of_single, rel=1e-4)
        assert [top.position for top in single.views.tops] == [top.position for top in double.views.tops]
        for top, same in zip(single.views.tops, double.views.tops, strict=True):
            assert (same.student[0], same.teacher[0]) == (top.student[0], top.teacher[0])
    assert one.samples[0].views.tops


@pytest.mark.parametrize(("size", "stage"), [(1, 0), (2, 2), (2, 3)])
async def test_a_stage_begins_with_a_new_optimizer_and_a_teacher_that_is_the_student(
    begin: Any, batches: Any, size: int, stage: int
) -> None:
    async def weights(group: LearnerGroup, kind: WeightKind) -> dict[str, torch.Tensor]:
        return (await group.workers.on_all(lambda actor: actor.weights.remote(kind)))[0]

    after = []
    for boundary in (StageBoundaryConfig(reset_optimizer=False, rebase_teacher=False), StageBoundaryConfig()):
        group = begin(size, zero_stage=stage, num_stages=3, stage_boundary=boundary)
        await group.step(arriving(batches[0]))
        student, teacher = await weights(group, WeightKind.STUDENT), await weights(group, WeightKind.EMA)
        await group.step(arriving(batches[1]))
        after.append((student, teacher, await weights(group, WeightKind.STUDENT)))
    (student, averaged, with_moments), (same, rebased, without) = after
    assert all(torch.equal(student[name], same[name]) for name in student)
    assert all(torch.equal(rebased[name], same[name]) for name in rebased)
    assert any(not torch.equal(averaged[name], student[name]) for name in averaged)
    assert any(not torch.allclose(with_moments[name], without[name], atol=1e-7) for name in without)


ADAPTER = AdapterConfig(kind=AdapterKind.LORA, rank=4, alpha=8.0)


@pytest.mark.parametrize(("size", "stage"), LAYOUTS)
def test_every_layout_trains_an_adapter_as_plain_pytorch_does_and_resumes_it_bit_for_bit(
    begin: Any, folder: str, batches: Any, checkpoints: Path, size: int, stage: int
) -> None:
    group = begin(size, zero_stage=stage, max_tokens_per_microbatch=24, adapter=ADAPTER)
    begun = weights_of(group, WeightKind.STUDENT)
    network = load_network(folder, Precision.FLOAT32, ModelConfig(path=folder, attention="sdpa"), ADAPTER).eval()
    factors = trained_parameters(network)
    assert begun.keys() == factors.keys()
    for name, value in factors.items():
        value.data.copy_(begun[name])
    losses, student, _ = train_in_plain_pytorch(network, batches)

    metrics = train(group, batches[:2])
    asyncio.run(group.save_checkpoint({}, wait=True))
    metrics += train(group, batches[2:])
    assert [step["learner/loss"] for step in metrics] == pytest.approx(losses, rel=1e-4)
    after = {kind: weights_of(group, kind) for kind in WeightKind}
    assert_close(after[WeightKind.STUDENT], student, 2e-5)
    resumed = begin(size, zero_stage=stage, max_tokens_per_microbatch=24, adapter=ADAPTER)
    asyncio.run(resumed.resume(checkpoints / "step-000002"))
    train(resumed, batches[2:])
    for kind in WeightKind:
        assert_close(weights_of(resumed, kind), after[kind], 0.0)


@pytest.mark.parametrize("channel", [Channel.OBJECT_STORE, Channel.SHARED_MEMORY])
@pytest.mark.parametrize(("size", "stage"), [(1, 0), (2, 3)])
def test_an_adapters_publications_hold_its_factors_and_the_average_of_its_update(
    begin: Any, batches: Any, size: int, stage: int, channel: Channel
) -> None:
    group = begin(size, zero_stage=stage, channel=channel, adapter=ADAPTER)
    begun, exact = weights_of(group, WeightKind.STUDENT), {}
    for version, batch in enumerate(batches, 1):
        train(group, [batch])
        published = {kind: dict(open_publication(asyncio.run(group.publish(kind, version)))) for kind in WeightKind}
        assert_close(published[WeightKind.STUDENT], weights_of(group, WeightKind.STUDENT), 0.0)
        assert published[WeightKind.STUDENT].keys() == begun.keys()
        average = factor_pairs(published[WeightKind.EMA].items())
        for target, (first, second) in factor_pairs(published[WeightKind.STUDENT].items()).items():
            exact[target] = EMA_DECAY * exact.get(target, 0.0) + (1 - EMA_DECAY) * second @ first
            mean_first, mean_second = average[target]
            assert mean_first.shape[0] == 2 * ADAPTER.rank
            assert (mean_second @ mean_first - exact[target]).norm() <= 1e-2 * exact[target].norm()


def test_an_adapter_is_exported_alone_and_merged(begin: Any, folder: str, batches: Any, tmp_path: Path) -> None:
    for size, stage in ((1, 0), (2, 3)):
        group = begin(size, zero_stage=stage, adapter=ADAPTER)
        train(group, batches[:1])
        alone, merged = tmp_path / f"adapter-{size}", tmp_path / f"merged-{size}"
        asyncio.run(group.export(alone))
        asyncio.run(group.export(merged, merged=True))
        assert asyncio.run(group.export_gap(alone, GUARD_ROWS)) < 1e-6
        assert asyncio.run(group.export_gap(merged, GUARD_ROWS)) < 1e-6
        by_peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), alone)
        for network in (by_peft, AutoModelForCausalLM.from_pretrained(merged)):
            for row, logprobs in zip(GUARD_ROWS, asyncio.run(group.logprobs(GUARD_ROWS)), strict=True):
                tokens, num_prompt = (*row.prompt_tokens, *row.completion_tokens), len(row.prompt_tokens)
                expected = network(torch.tensor([tokens])).logits[0, num_prompt - 1 : -1].log_softmax(-1)
                expected = expected.gather(1, torch.tensor(row.completion_tokens)[:, None])[:, 0]
                assert logprobs == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_adapter_trains_in_bf16_beside_fp32_masters(begin: Any, batches: Any, stage: int) -> None:
    group = begin(2, zero_stage=stage, precision=Precision.BFLOAT16, adapter=ADAPTER)
    begun = weights_of(group, WeightKind.STUDENT)
    train(group, batches)
    after = weights_of(group, WeightKind.STUDENT)
    assert all((after[name] != value).any() for name, value in begun.items())
