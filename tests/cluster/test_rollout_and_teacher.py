"""A real vLLM engine and real teachers, held against plain transformers with the same weights.

The student's network below is changed and published by some tests; `Student` keeps it equal to what the
workers hold. Legend: T completion tokens, V vocabulary entries that count.
"""

import asyncio
import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import ray
import torch

from sdft_ray.config import (
    Channel,
    ModelConfig,
    Payload,
    Precision,
    RolloutConfig,
    TeacherConfig,
)
from sdft_ray.errors import ModelError, WorkerError
from sdft_ray.examples import TokenizedExample
from sdft_ray.records import Bucket, Publication, Rollout
from sdft_ray.rollout.ordered_pool import OrderedRolloutPool
from sdft_ray.rollout.pool import RolloutPool
from sdft_ray.rollout.worker import RolloutWorker
from sdft_ray.teacher.pool import TeacherPool
from sdft_ray.teacher.transformers_worker import TransformersTeacher
from sdft_ray.tensors import to_array, to_tensor
from sdft_ray.weights.buckets import bucket_elements, plan_buckets
from sdft_ray.weights.channel import WeightChannel
from sdft_ray.weights.object_store import StoredArray
from sdft_ray.weights.shared_memory import MemoryFile, map_memory
from sdft_ray.workers.group import WorkerGroup
from tests.cluster.student import TrainedStudent
from tests.tiny import GUARD_ROWS, make_tiny_model
from tests.weights.plans import live_plan, make_plan

NUM_TOKENS = 380  # of the head's 416 rows, all of them random: padded rows hold a tenth of the mass here
EOS_TOKEN_IDS = tuple(range(0, NUM_TOKENS, 12))
TEMPERATURE = 1.3
CHANNELS = (Channel.OBJECT_STORE, Channel.SHARED_MEMORY)  # of two teachers: one copies what is published, one maps it
MAX_NEW_TOKENS = 24
BUCKET_ELEMENTS = 5000  # many buckets, and parameters of one layer in different ones


class Student(TrainedStudent):
    """The weights the workers hold, in plain transformers."""

    def publish(self) -> Publication:
        parameters = dict(self.network.named_parameters())
        buckets = []
        for entries in plan_buckets(((name, p.shape) for name, p in parameters.items()), BUCKET_ELEMENTS):
            array = np.empty(bucket_elements(entries), dtype=np.float32)
            for entry in entries:
                values = to_array(parameters[entry.name]).ravel()
                array[entry.offset : entry.offset + values.size] = values
            buckets.append(Bucket(dtype="float32", entries=entries, array=StoredArray(ray.put(array))))
        return Publication(version=self.version, buckets=tuple(buckets))

    def publish_in(self, memory: MemoryFile) -> Publication:
        """In one bucket, in memory that is written anew."""
        parameters = dict(self.network.named_parameters())
        (entries,) = plan_buckets(((name, p.shape) for name, p in parameters.items()), 10**9)
        array = map_memory(memory.handle, "float32", writable=True)
        array[:] = np.concatenate([to_array(parameters[entry.name]).ravel() for entry in entries])
        return Publication(
            version=self.version, buckets=(Bucket(dtype="float32", entries=entries, array=memory.handle),)
        )

    @torch.inference_mode()
    def logits(self, prompt, completion) -> torch.Tensor:
        """[T, all rows of the head]"""
        logits = self.network(input_ids=torch.tensor([[*prompt, *completion]])).logits[0]
        return logits[len(prompt) - 1 : -1]

    def logprobs(self, prompt, completion, temperature: float) -> torch.Tensor:
        """[T]"""
        logprobs = (self.logits(prompt, completion)[:, :NUM_TOKENS] / temperature).log_softmax(-1)
        return logprobs.gather(1, torch.tensor(completion)[:, None])[:, 0]


@pytest.fixture(scope="module")
def workers(cluster, tmp_path_factory):
    """One rollout worker and two teachers, started at the same time."""
    folder = make_tiny_model(tmp_path_factory.mktemp("model"), vocab=416)
    logs = str(tmp_path_factory.mktemp("logs"))
    model = ModelConfig(path=folder, dtype=Precision.FLOAT32)
    rollout = ray.remote(RolloutWorker).remote(
        rank=0,
        log_dir=logs,
        model_path=folder,
        model=model,
        rollout=RolloutConfig(
            temperature=TEMPERATURE, max_new_tokens=MAX_NEW_TOKENS, max_concurrent=16, kv_cache_gib=0.125
        ),
        num_tokens=NUM_TOKENS,
        eos_token_ids=EOS_TOKEN_IDS,
        max_model_len=320,
        tensor_parallel_size=1,
        shares_device=True,
        sleeps=False,
        weights=make_plan(),
        seed=0,
    )
    teachers = [
        ray.remote(TransformersTeacher).remote(
            rank=rank,
            log_dir=logs,
            model_path=folder,
            model=model,
            teacher=TeacherConfig(max_tokens_per_forward=100, payload=Payload.LOGITS),
            num_tokens=NUM_TOKENS,
            temperature=TEMPERATURE,
            device="cpu",
            guard_rows=GUARD_ROWS,
            max_len=320,
            weights=make_plan(CHANNELS[rank]),
        )
        for rank in range(2)
    ]
    assert ray.get([actor.ready.remote() for actor in (rollout, *teachers)]) == [0, 0, 0]
    yield SimpleNamespace(student=Student(folder), rollout=rollout, teachers=teachers, logs=logs)
    for actor in (rollout, *teachers):
        ray.kill(actor)


@pytest.fixture
def student(workers):
    return workers.student


@pytest.fixture
def rollouts(workers):
    async def publish(kind, version):
        assert version == workers.student.version
        return workers.student.publish()

    return RolloutPool(WorkerGroup("rollout", [workers.rollout], workers.logs), WeightChannel(publish, 60.0))


@pytest.fixture
def ordered(rollouts):
    """The same worker, as a deterministic run asks it."""
    return OrderedRolloutPool(rollouts._group, rollouts._channel)


@pytest.fixture
def teachers(workers):
    async def publish(kind, version):
        return workers.student.publish()

    group = WorkerGroup("teacher", workers.teachers, workers.logs)
    return TeacherPool(group, WeightChannel(publish, 60.0), live_plan())


def make_example(seed: int, num_prompt_tokens: int = 20) -> TokenizedExample:
    tokens = torch.randint(NUM_TOKENS, (num_prompt_tokens,), generator=torch.Generator().manual_seed(seed)).tolist()
    return TokenizedExample(
        example_id=str(seed),
        epoch=0,
        seed=seed,
        max_new_tokens=MAX_NEW_TOKENS,
        prompt_tokens=tuple(tokens),
        teacher_prompt_tokens=(7, *tokens, 8, 9),
        demonstration_tokens=(1, 0),
    )


def complete_all(rollouts, examples) -> list[Rollout]:
    async def run():
        return await asyncio.gather(*(rollouts.complete(example) for example in examples))

    return asyncio.run(run())


def assert_sampled_from(student, sampled):
    for rollout in sampled:
        expected = student.logprobs(rollout.prompt_tokens, rollout.completion_tokens, TEMPERATURE)
        torch.testing.assert_close(torch.tensor(rollout.logprobs), expected, atol=1e-4, rtol=0)


def test_sampled_logprobs_are_those_of_transformers_without_the_padded_rows(student, rollouts):
    sampled = complete_all(rollouts, [make_example(seed, 3 + seed) for seed in range(24)])
    assert_sampled_from(student, sampled)
    assert max(token for rollout in sampled for token in rollout.completion_tokens) < NUM_TOKENS


def test_a_completion_ends_with_its_end_token_or_is_flagged_as_truncated(rollouts):
    sampled = complete_all(rollouts, [make_example(seed) for seed in range(24)])
    for rollout in sampled:
        *before, last = rollout.completion_tokens
        assert not set(before) & set(EOS_TOKEN_IDS)
        assert rollout.truncated == (last not in EOS_TOKEN_IDS)
        assert not rollout.truncated or len(rollout.completion_tokens) == MAX_NEW_TOKENS
        assert rollout.num_sampled == len(rollout.completion_tokens)
    assert {rollout.truncated for rollout in sampled} == {True, False}


def test_a_completion_is_reproducible_by_its_seed_whatever_runs_beside_it(rollouts):
    (alone,) = complete_all(rollouts, [make_example(3)])
    among_others = complete_all(rollouts, [make_example(seed) for seed in range(12)])
    assert among_others[3].completion_tokens == alone.completion_tokens
    assert len({rollout.completion_tokens for rollout in among_others}) == 12


def test_what_is_asked_together_is_the_same_to_the_last_bit_whatever_was_asked_before(student, rollouts, ordered):
    """More completions than the engine has room for at once, of prompts that fill whole blocks of its cache."""
    examples = [make_example(seed, 40 + seed) for seed in range(20)]
    readings = [(example.prompt_tokens, (1, 2, 3)) for example in examples]

    async def ask():
        return await asyncio.gather(
            asyncio.gather(*map(ordered.complete, examples)),
            asyncio.gather(*(ordered.answer(example.prompt_tokens, 8) for example in examples)),
            asyncio.gather(*(ordered.logprobs(*reading) for reading in readings)),
        )

    first = asyncio.run(ask())
    sampled = complete_all(rollouts, examples[3:7])  # the engine keeps what it has read
    assert asyncio.run(ask()) == first
    assert [rollout.completion_tokens for rollout in sampled] == [
        rollout.completion_tokens for rollout in first[0][3:7]
    ]
    assert_sampled_from(student, first[0])


def test_a_sample_of_a_prompt_is_drawn_by_its_seed_and_no_longer_than_asked(rollouts):
    prompt = (1, 5, 9, 12)

    async def draw():
        return await asyncio.gather(*(rollouts.sample(prompt, 12, 1.0, 1.0, seed) for seed in (3, 4, 3)))

    first, other, again = asyncio.run(draw())
    assert first == again != other
    assert all(1 <= len(tokens) <= 12 for tokens in (first, other))


def test_prompts_beyond_one_forward_pass_are_read_whole_and_keep_their_seeds(rollouts):
    """16 at once hold more tokens than the engine reads at a time."""
    sampled = complete_all(rollouts, [make_example(seed, num_prompt_tokens=200) for seed in range(20)])
    (alone,) = complete_all(rollouts, [make_example(19, num_prompt_tokens=200)])
    assert sampled[-1].completion_tokens == alone.completion_tokens


def test_a_greedy_answer_is_that_of_transformers(student, rollouts):
    prompt = make_example(11).prompt_tokens
    answer = asyncio.run(rollouts.answer(prompt, 16))
    assert answer == tuple(student.logits(prompt, answer)[:, :NUM_TOKENS].argmax(-1).tolist())
    assert len(answer) == 16 or answer[-1] in EOS_TOKEN_IDS


def test_a_sampled_answer_is_its_seeds_and_the_greedy_one_where_only_the_likeliest_token_is_left(rollouts):
    prompt = make_example(12).prompt_tokens

    async def run():
        greedy = await rollouts.answer(prompt, 16)
        cut = await rollouts.sample(prompt, 16, 1.0, 1e-6, 5)
        return greedy, cut, [await rollouts.sample(prompt, 16, 1.0, 1.0, seed) for seed in (5, 5, 6)]

    greedy, cut, (first, again, other) = asyncio.run(run())
    assert cut == greedy
    assert first == again != other


def test_logprobs_of_a_given_completion_are_those_of_transformers_even_where_the_prompt_is_cached(student, rollouts):
    prompt = make_example(5, 200).prompt_tokens  # more than one block of the prefix cache (128 tokens)

    async def run():
        first = await rollouts.logprobs(prompt, (3, 4, 5))
        return first, await rollouts.logprobs(prompt, (3, 4, 5)), await rollouts.logprobs(prompt, (6,))

    first, again, other = asyncio.run(run())
    expected = student.logprobs(prompt, (3, 4, 5), 1.0)
    torch.testing.assert_close(torch.tensor(first), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.tensor(again), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.tensor(other), student.logprobs(prompt, (6,), 1.0), atol=1e-4, rtol=0)


def test_a_likelihood_is_that_of_the_whole_completion_and_knows_whether_it_is_greedy(student, rollouts):
    prompt = make_example(11).prompt_tokens

    async def run():
        greedy = (await rollouts.answer(prompt, 3))[:3]
        other = (*greedy[:-1], (greedy[-1] + 1) % NUM_TOKENS)
        return greedy, await rollouts.likelihood(prompt, greedy), other, await rollouts.likelihood(prompt, other)

    greedy, (logprob, is_greedy), other, (other_logprob, other_is_greedy) = asyncio.run(run())
    assert (is_greedy, other_is_greedy) == (True, False)
    assert logprob == pytest.approx(student.logprobs(prompt, greedy, 1.0).sum().item(), abs=1e-4)
    assert other_logprob == pytest.approx(student.logprobs(prompt, other, 1.0).sum().item(), abs=1e-4)


def test_loaded_weights_are_used_with_their_version_and_no_stale_prefix_is_served(student, rollouts):
    examples = [make_example(seed, 200) for seed in range(4)]
    before = complete_all(rollouts, examples)
    for _ in range(3):
        asyncio.run(rollouts.load_weights(student.train()))
        sampled = complete_all(rollouts, examples)
        assert_sampled_from(student, sampled)
        assert {rollout.weight_version for rollout in sampled} == {student.version}
    assert [rollout.completion_tokens for rollout in sampled] != [rollout.completion_tokens for rollout in before]


def test_a_completion_that_spans_a_load_records_the_oldest_version_and_goes_on_with_the_new_weights(student, rollouts):
    async def run():
        before = copy.deepcopy(student)
        running = [asyncio.create_task(rollouts.complete(make_example(seed))) for seed in range(160)]
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        await rollouts.load_weights(student.train())
        return before, await asyncio.gather(*running)

    before, sampled = asyncio.run(run())
    # 16 run at a time: some ended before the load, most waited through it and were sampled wholly after it.
    assert {rollout.weight_version for rollout in sampled} == {before.version, student.version}
    assert_sampled_from(student, [rollout for rollout in sampled if rollout.weight_version == student.version])
    switched_at = []
    for rollout in sampled:
        if rollout.weight_version == before.version:
            old, new = (
                model.logprobs(rollout.prompt_tokens, rollout.completion_tokens, TEMPERATURE)
                for model in (before, student)
            )
            matches_old = (torch.tensor(rollout.logprobs) - old).abs() < 1e-4
            first_new = int(matches_old.long().cumprod(0).sum())
            torch.testing.assert_close(torch.tensor(rollout.logprobs)[first_new:], new[first_new:], atol=1e-4, rtol=0)
            switched_at.append((first_new, len(old)))
    assert all(first_new > 0 for first_new, _ in switched_at)
    assert any(first_new < length for first_new, length in switched_at)


def test_a_prompt_without_room_for_a_completion_is_an_error_and_the_engine_goes_on(rollouts):
    with pytest.raises(WorkerError, match="rollout worker 0 failed"):
        complete_all(rollouts, [make_example(0, 320)])
    complete_all(rollouts, [make_example(0)])


def score_all(teachers, pairs):
    async def run():
        return await asyncio.gather(*(teachers.score(example, rollout) for example, rollout in pairs))

    return asyncio.run(run())


def make_rollout(example: TokenizedExample, length: int) -> Rollout:
    tokens = tuple((7 * example.seed + 3 * position) % NUM_TOKENS for position in range(length))
    return Rollout(
        prompt_tokens=example.prompt_tokens,
        completion_tokens=tokens,
        logprobs=(0.0,) * length,
        weight_version=0,
        truncated=False,
        num_sampled=0,
    )


def assert_scored_by(student, pairs, scored):
    for (example, rollout), scores in zip(pairs, scored, strict=True):
        logits = to_tensor(ray.get(scores.payload).logits)
        expected = student.logits(example.teacher_prompt_tokens, rollout.completion_tokens)[:, :NUM_TOKENS]
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_teacher_scores_are_those_of_transformers_whatever_they_are_batched_with(student, teachers):
    examples = [make_example(seed, 4 + 3 * seed) for seed in range(16)]
    pairs = [(example, make_rollout(example, 1 + example.seed)) for example in examples]
    pairs.append((examples[0], make_rollout(examples[0], 150)))  # longer than the token budget
    asyncio.run(teachers.load_weights(student.train()))
    scored = score_all(teachers, pairs)
    assert_scored_by(student, pairs, scored)
    assert [scores.num_tokens for scores in scored] == [len(rollout.completion_tokens) for _, rollout in pairs]


def test_teachers_load_weights_again_and_again_and_record_their_version(student, teachers):
    pairs = [(make_example(seed), make_rollout(make_example(seed), 6)) for seed in range(4)]
    for _ in range(2):
        asyncio.run(teachers.load_weights(student.train()))
        scored = score_all(teachers, pairs)
        assert_scored_by(student, pairs, scored)
        assert {scores.teacher_version for scores in scored} == {student.version}


def test_one_memory_brings_version_after_version_to_engine_and_teachers(student, workers):
    memory = MemoryFile(4 * sum(parameter.numel() for parameter in student.network.parameters()))

    async def publish(kind, version):
        return student.publish_in(memory)

    channel = WeightChannel(publish, 60.0)
    rollouts = RolloutPool(WorkerGroup("rollout", [workers.rollout], workers.logs), channel)
    group = WorkerGroup("teacher", workers.teachers, workers.logs)
    teachers = TeacherPool(group, channel, live_plan())

    async def load(version):
        await asyncio.gather(rollouts.load_weights(version), teachers.load_weights(version))

    examples = [make_example(seed) for seed in range(4)]
    for _ in range(2):
        asyncio.run(load(student.train()))
        sampled = complete_all(rollouts, examples)
        assert_sampled_from(student, sampled)
        pairs = list(zip(examples, sampled, strict=True))
        assert_scored_by(student, pairs, score_all(teachers, pairs))


def test_a_publication_of_another_network_is_refused_by_the_name_of_the_parameter(student, workers):
    publication = student.publish()
    incomplete = Publication(version=99, buckets=publication.buckets[:-1])
    missing = publication.buckets[-1].entries[0].name
    group = WorkerGroup("teacher", workers.teachers, workers.logs)
    with pytest.raises(ModelError, match=f"parameter {missing}: .* None"):
        asyncio.run(group.on_all(lambda actor: actor.load_weights.remote(incomplete)))


def engine_processes(workers):
    children = psutil.Process(ray.get(workers.rollout.status.remote()).process_id).children(recursive=True)
    return [child for child in children if "VLLM" in " ".join(child.cmdline())]  # not Python's resource tracker


def test_an_engine_holds_no_named_semaphore_which_would_outlive_a_kill(workers):
    (engine,) = engine_processes(workers)
    mapped = {line.split()[4] for line in Path(f"/proc/{engine.pid}/maps").read_text().splitlines()}
    named = [file.name for file in Path("/dev/shm").iterdir() if str(file.stat().st_ino) in mapped]
    assert not [name for name in named if name.startswith("sem.")]


def test_no_process_is_left_after_close(workers):
    status = ray.get(workers.rollout.status.remote())
    assert status.peak_memory_gib > status.peak_gpu_memory_gib == 0.0
    engine = engine_processes(workers)
    assert engine
    ray.get(workers.rollout.close.remote())
    _, left = psutil.wait_procs(engine, timeout=5)
    # A zombie runs no more and holds no memory; the actor's own end, which follows at once in a run, takes it away.
    assert not [process for process in left if process.status() != psutil.STATUS_ZOMBIE]
