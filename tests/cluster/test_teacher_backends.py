"""One teacher on real vLLM, held against one in transformers with the same weights. Legend: T completion tokens."""

import asyncio
from types import SimpleNamespace

import psutil
import pytest
import ray
import torch

from sdft_ray.config import ModelConfig, Precision, TeacherConfig
from sdft_ray.errors import ModelError
from sdft_ray.examples import TokenizedExample
from sdft_ray.records import Publication, Rollout
from sdft_ray.teacher.pool import TeacherPool
from sdft_ray.teacher.transformers_worker import TransformersTeacher
from sdft_ray.teacher.vllm_worker import VllmTeacher
from sdft_ray.tensors import to_tensor
from sdft_ray.weights.channel import WeightChannel
from sdft_ray.workers.group import WorkerGroup
from tests.cluster.student import TrainedStudent
from tests.tiny import GUARD_ROWS, make_tiny_model
from tests.weights.plans import live_plan
from tests.weights.publications import publish

NUM_TOKENS = 380
MAX_TOKENS_PER_FORWARD = 100
MAX_MODEL_LEN = 320
# Of teacher prompt and completion. Together they take several forward passes; the last two are read in pieces.
LENGTHS = [(1, 3), (5, 1), (20, 7), (30, 30), (3, 60), (250, 70), (120, 90)]


class Student(TrainedStudent):
    """The weights that the learner would publish."""

    def publish(self) -> Publication:
        return publish(self.version, dict(self.network.named_parameters()), max_elements=5000)


@pytest.fixture(scope="module")
def workers(cluster, tmp_path_factory):
    """A teacher of each backend; untied weights, so that publications hold a head that the engine does not."""
    folder = make_tiny_model(tmp_path_factory.mktemp("model"), tied=False)
    logs = str(tmp_path_factory.mktemp("logs"))
    settings = {
        "rank": 0,
        "model_path": folder,
        "model": ModelConfig(path=folder, dtype=Precision.FLOAT32),
        "teacher": TeacherConfig(max_tokens_per_forward=MAX_TOKENS_PER_FORWARD, kv_cache_gib=0.125),
        "device": "cpu",
        "weights": live_plan(),
    }
    actors = {
        "vllm": ray.remote(VllmTeacher).remote(
            log_dir=f"{logs}/vllm",
            max_model_len=MAX_MODEL_LEN,
            tensor_parallel_size=1,
            shares_device=True,
            sleeps=False,
            **settings,
        ),
        "transformers": ray.remote(TransformersTeacher).remote(
            log_dir=f"{logs}/transformers",
            num_tokens=NUM_TOKENS,
            temperature=1.0,
            guard_rows=GUARD_ROWS,
            max_len=MAX_MODEL_LEN,
            **settings,
        ),
    }
    assert ray.get([actor.ready.remote() for actor in actors.values()]) == [0, 0]
    yield SimpleNamespace(student=Student(folder), actors=actors, logs=logs)
    for actor in actors.values():
        ray.kill(actor)


@pytest.fixture
def student(workers):
    return workers.student


@pytest.fixture
def teachers(workers):
    """A pool for each backend; they share the publications, as if they were two roles."""

    async def publish_student(kind, version):
        return workers.student.publish()

    channel = WeightChannel(publish_student, 60.0)
    return [
        TeacherPool(
            WorkerGroup("teacher", [actor], f"{workers.logs}/{backend}"),
            channel,
            live_plan(),
        )
        for backend, actor in workers.actors.items()
    ]


def make_pair(num_prompt_tokens: int, num_completion_tokens: int) -> tuple[TokenizedExample, Rollout]:
    generator = torch.Generator().manual_seed(num_prompt_tokens)
    prompt, completion = (
        tuple(torch.randint(NUM_TOKENS, (length,), generator=generator).tolist())
        for length in (num_prompt_tokens, num_completion_tokens)
    )
    example = TokenizedExample(
        example_id=str(num_prompt_tokens),
        epoch=0,
        seed=0,
        max_new_tokens=12,
        prompt_tokens=prompt,
        teacher_prompt_tokens=prompt,
        demonstration_tokens=(1,),
    )
    rollout = Rollout(
        prompt_tokens=prompt,
        completion_tokens=completion,
        logprobs=(0.0,) * num_completion_tokens,
        weight_version=0,
        truncated=False,
        num_sampled=0,
    )
    return example, rollout


PAIRS = [make_pair(*lengths) for lengths in LENGTHS]


async def score_all(teacher, pairs):
    return await asyncio.gather(*(teacher.score(example, rollout) for example, rollout in pairs))


def hidden_of(scores) -> torch.Tensor:
    """[T, hidden size]"""
    return to_tensor(ray.get(scores.payload).hidden)


def assert_equal_scores(teachers, version: int) -> None:
    async def score():
        return await asyncio.gather(*(score_all(teacher, PAIRS) for teacher in teachers))

    vllm, transformers = asyncio.run(score())
    for mine, theirs, (_, rollout) in zip(vllm, transformers, PAIRS, strict=True):
        assert mine.num_tokens == theirs.num_tokens == len(rollout.completion_tokens)
        assert mine.teacher_version == theirs.teacher_version == version
        torch.testing.assert_close(hidden_of(mine), hidden_of(theirs), atol=1e-4, rtol=0)


def test_both_backends_give_the_same_hidden_states_also_of_what_is_longer_than_one_forward(student, teachers):
    assert max(sum(lengths) for lengths in LENGTHS) > 3 * MAX_TOKENS_PER_FORWARD
    assert_equal_scores(teachers, version=student.version)


def test_both_backends_agree_again_after_every_load(student, teachers):
    before = hidden_of(asyncio.run(teachers[0].score(*PAIRS[0])))
    for _ in range(2):
        version = student.train()

        async def load(version=version):
            await asyncio.gather(*(teacher.load_weights(version) for teacher in teachers))

        asyncio.run(load())
        assert_equal_scores(teachers, version)
    after = hidden_of(asyncio.run(teachers[0].score(*PAIRS[0])))
    assert (after - before).abs().max() > 0.01


def test_scores_asked_for_around_a_load_are_wholly_of_the_version_they_name(student, teachers):
    vllm, transformers = teachers
    pairs = [make_pair(180 + index, 12) for index in range(24)]

    async def run():
        version = student.version
        expected = {version: [hidden_of(scores) for scores in await score_all(transformers, pairs)]}
        scoring = [asyncio.create_task(vllm.score(*pair)) for pair in pairs]
        await asyncio.wait(scoring, return_when=asyncio.FIRST_COMPLETED)
        loading = asyncio.create_task(vllm.load_weights(student.train()))
        scored = await asyncio.gather(*scoring)
        await loading
        await transformers.load_weights(student.version)
        expected[student.version] = [hidden_of(scores) for scores in await score_all(transformers, pairs)]
        return scored, expected

    scored, expected = asyncio.run(run())
    assert {scores.teacher_version for scores in scored} == set(expected)
    for index, scores in enumerate(scored):
        torch.testing.assert_close(hidden_of(scores), expected[scores.teacher_version][index], atol=1e-4, rtol=0)


def test_a_publication_that_lacks_a_parameter_is_refused_by_its_name(student, workers):
    publication = student.publish()
    norm = "model.norm.weight"
    without = tuple(bucket for bucket in publication.buckets if norm not in [entry.name for entry in bucket.entries])
    group = WorkerGroup("teacher", [workers.actors["vllm"]], workers.logs)
    with pytest.raises(ModelError, match=f"does not reach 3 of its parameters, such as .*{norm}.*TRANSFORMERS"):
        asyncio.run(group.on_all(lambda actor: actor.load_weights.remote(Publication(version=99, buckets=without))))


def test_no_process_is_left_after_close(workers):
    vllm = workers.actors["vllm"]
    children = psutil.Process(ray.get(vllm.status.remote()).process_id).children(recursive=True)
    engine = [child for child in children if "VLLM" in " ".join(child.cmdline())]  # not Python's resource tracker
    assert engine
    ray.get(vllm.close.remote())
    _, left = psutil.wait_procs(engine, timeout=5)
    # A zombie runs no more and holds no memory; the actor's own end, which follows at once in a run, takes it away.
    assert not [process for process in left if process.status() != psutil.STATUS_ZOMBIE]
