import asyncio
from dataclasses import replace

from sdft_ray.config import Channel, TeacherConfig, TeacherEma, TeacherWeights
from sdft_ray.records import Publication, Rollout, TeacherScores
from sdft_ray.teacher.pool import TeacherPool
from sdft_ray.teacher.token_target import TokenTarget
from sdft_ray.weights.channel import WeightChannel, WeightKind
from sdft_ray.workers.group import WorkerGroup
from tests.fakes import make_example
from tests.weights.plans import make_plan

ROLLOUT = Rollout(
    prompt_tokens=(1, 2),
    completion_tokens=(5, 6, 0),
    logprobs=(-1.0,) * 3,
    weight_version=0,
    truncated=False,
    num_sampled=3,
)


class Method:
    """What an actor's method looks like to a caller: `.remote` returns an awaitable."""

    def __init__(self, method):
        self.remote = method

    def options(self, *, num_returns):
        assert num_returns == 2
        return self


class Unopened:
    """A handle that nobody may await."""


class FakeActor:
    """A teacher worker in memory."""

    def __init__(self):
        self.version = 0
        self.scored = []
        self.payload = Unopened()
        self.score = Method(self._score)
        self.loaded = []
        self.load_weights = Method(self._load_weights)
        self.average_weights = Method(self._average_weights)

    def _score(self, prompt_tokens, completion_tokens, by_initial):
        self.scored.append((prompt_tokens, completion_tokens, by_initial))

        async def version():
            return self.version

        return version(), self.payload

    async def _load_weights(self, publication):
        self.loaded.append(("load", publication.version))
        self.version = publication.version
        return self.version

    async def _average_weights(self, publication):
        self.loaded.append(("average", publication.version))
        self.version = publication.version
        return self.version


def make_pool(weights, *actors, ema=TeacherEma.LEARNER, maps_weights=False):
    fetched = []

    async def publish(kind, version):
        fetched.append((kind, version))
        return Publication(version=version, buckets=())

    group, channel = WorkerGroup("teacher", actors, "logs"), WeightChannel(publish, 10.0)
    by = Channel.SHARED_MEMORY if maps_weights else Channel.OBJECT_STORE
    return TeacherPool(group, channel, make_plan(by, teacher=TeacherConfig(weights=weights), teacher_ema=ema)), fetched


def test_the_completion_is_scored_under_the_teacher_prompt_and_its_payload_is_passed_on_unopened():
    async def run():
        actor = FakeActor()
        pool, _ = make_pool(TeacherWeights.EMA, actor)
        return actor, await pool.score(make_example(4), ROLLOUT)

    actor, scores = asyncio.run(run())
    assert actor.scored == [((1, 9, 2, 4), (5, 6, 0), False)]
    assert scores.payload is actor.payload
    assert (scores.num_tokens, scores.teacher_version) == (3, 0)


def test_a_rehearsal_row_is_scored_by_the_initial_weights():
    async def run():
        actor = FakeActor()
        pool, _ = make_pool(TeacherWeights.EMA, actor)
        await pool.score(replace(make_example(4), is_rehearsal=True), ROLLOUT)
        return actor.scored

    assert [by_initial for _, _, by_initial in asyncio.run(run())] == [True]


def test_each_kind_of_teacher_fetches_its_own_weights_once():
    async def load(weights):
        actors = [FakeActor(), FakeActor()]
        pool, fetched = make_pool(weights, *actors)
        await asyncio.gather(pool.load_weights(2), pool.load_weights(2))
        return fetched, [actor.version for actor in actors]

    assert asyncio.run(load(TeacherWeights.EMA)) == ([(WeightKind.EMA, 2)], [2, 2])
    assert asyncio.run(load(TeacherWeights.LIVE)) == ([(WeightKind.STUDENT, 2)], [2, 2])
    assert asyncio.run(load(TeacherWeights.FROZEN)) == ([], [0, 0])


def test_only_teachers_that_map_load_the_weights_the_run_begins_with():
    async def load(weights, maps_weights):
        pool, fetched = make_pool(weights, FakeActor(), maps_weights=maps_weights)
        await pool.load_weights(0)
        await pool.load_weights(0)
        return fetched

    assert asyncio.run(load(TeacherWeights.EMA, True)) == [(WeightKind.EMA, 0)]
    assert asyncio.run(load(TeacherWeights.LIVE, True)) == [(WeightKind.STUDENT, 0)]
    assert asyncio.run(load(TeacherWeights.FROZEN, True)) == []
    assert asyncio.run(load(TeacherWeights.EMA, False)) == []


def test_teachers_that_average_themselves_get_the_student_step_by_step():
    async def load(*versions):
        actors = [FakeActor(), FakeActor()]
        pool, fetched = make_pool(TeacherWeights.EMA, *actors, ema=TeacherEma.RECEIVER)
        for version in versions:
            await pool.load_weights(version)
        return fetched, [actor.loaded for actor in actors]

    fetched, loaded = asyncio.run(load(1, 2, 2))
    assert fetched == [(WeightKind.STUDENT, 1), (WeightKind.STUDENT, 2)]
    assert loaded == [[("average", 1), ("average", 2)]] * 2

    fetched, loaded = asyncio.run(load(20, 21))
    assert fetched == [(WeightKind.EMA, 20), (WeightKind.STUDENT, 21)], (
        "a resumed run begins with the learner's average"
    )
    assert loaded == [[("load", 20), ("average", 21)]] * 2


def test_a_token_target_has_no_payload_and_is_never_stale():
    async def run():
        target = TokenTarget()
        await target.load_weights(6)
        return await target.score(make_example(0), ROLLOUT)

    assert asyncio.run(run()) == TeacherScores(payload=None, num_tokens=3, teacher_version=6)
