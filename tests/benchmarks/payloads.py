"""What a teacher worker sends to the learner for every completion token: bytes, time, exactness.

SmolLM2-135M-Instruct as student and teacher on built-in tool calls whose demonstrations are the completions; the
teacher sees the demonstration. Packing is the teacher worker's, sending puts the payloads into Ray's object store, and
opening is the learner's, in another process; the fastest of three. One thread each. The difference is the largest
that a token's KL(student || teacher) has from the one LOGITS give, in nats.
"""

import json
import time
from typing import Any, NamedTuple

import ray
import torch

from sdft_ray.cluster.session import RaySession
from sdft_ray.config import ClusterConfig, DataConfig, ModelConfig, Payload, Precision, TeacherConfig
from sdft_ray.data.dataset import tokenize_examples
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.distill.distributions import Head
from sdft_ray.distill.divergence import LossSettings
from sdft_ray.distill.fused_loss import fused_teacher_loss
from sdft_ray.learner.schedule import pack_microbatch
from sdft_ray.learner.teacher import TeacherHeads, open_payloads
from sdft_ray.models.embedded import embedded_model
from sdft_ray.models.folder import load_tokenizer
from sdft_ray.models.network import completion_hidden, load_network, output_head
from sdft_ray.models.packing import PackedSequences, pack_sequences
from sdft_ray.records import Microbatch, Rollout, Sample, TeacherScores
from sdft_ray.teacher.payload import PayloadPacker
from tests.examples import load_examples

KINDS = {
    "LOGITS": TeacherConfig(payload=Payload.LOGITS),
    "HIDDEN": TeacherConfig(payload=Payload.HIDDEN),
    "HIDDEN bf16": TeacherConfig(payload=Payload.HIDDEN, payload_precision=Precision.BFLOAT16),
    "TOPK": TeacherConfig(payload=Payload.TOPK),
}
SETTINGS = LossSettings(divergence="reverse_kl", jsd_beta=0.5, estimator="analytic", temperature=1.0, mismatch="none")
CPU = torch.device("cpu")
ROUNDS = 3


class Sequences(NamedTuple):
    """Hidden states of the same completions under both prompts; T tokens in all."""

    completions: list[tuple[int, ...]]
    prompts: list[tuple[int, ...]]
    student_hidden: torch.Tensor  # [T, H]
    teacher_hidden: torch.Tensor  # [T, H]
    head: Head
    num_vocab: int


def measure(num_examples: int = 16) -> dict[str, Any]:
    """Sends every kind of payload through a Ray of its own."""
    torch.set_num_threads(1)
    inputs = _sequences(num_examples)
    with RaySession(ClusterConfig(object_store_gib=2.0)):
        results = {name: _send(inputs, config) for name, config in KINDS.items()}
    exact = results["LOGITS"][1]
    rows = [
        {
            "payload": name,
            "tokens": len(exact),
            **figures,
            "max_abs_diff_nats": (divergence - exact).abs().max().item(),
            "mean_divergence_nats": divergence.mean().item(),
        }
        for name, (figures, divergence) in results.items()
    ]
    return {
        "payload_bytes_per_token": {row["payload"]: row["bytes_per_token"] for row in rows},
        "payload_max_abs_diff": next(row["max_abs_diff_nats"] for row in rows if row["payload"] == "HIDDEN"),
        "payloads_raw": {"tables": {"": rows}, "notes": ["payload_max_abs_diff is that of HIDDEN, the default."]},
    }


@torch.no_grad()
def _sequences(num_examples: int) -> Sequences:
    folder = embedded_model()
    tokenizer = load_tokenizer(folder)
    examples = load_examples("builtin:tools", "train", {}, "", num_examples)
    rows = tokenize_examples(examples, PromptBuilder(tokenizer, TeacherConfig(template="turns")), DataConfig()).rows
    network = load_network(folder, Precision.FLOAT32, ModelConfig())

    def hidden(packed: PackedSequences) -> torch.Tensor:
        return completion_hidden(
            network,
            *(torch.from_numpy(array) for array in (packed.input_ids, packed.position_ids, packed.predictor_index)),
        )

    return Sequences(
        completions=[row.demonstration_tokens for row in rows],
        prompts=[row.prompt_tokens for row in rows],
        student_hidden=hidden(pack_sequences([(row.prompt_tokens, row.demonstration_tokens) for row in rows])),
        teacher_hidden=hidden(pack_sequences([(row.teacher_prompt_tokens, row.demonstration_tokens) for row in rows])),
        head=output_head(network),
        num_vocab=len(tokenizer),
    )


@ray.remote
def _opening_s(microbatch: Microbatch, head: Head) -> float:
    """Seconds that a learner's process takes to read the payloads."""
    heads = TeacherHeads(1)
    heads.hold(0, head)
    started = time.perf_counter()
    open_payloads(microbatch, heads, "bucket", CPU)
    return time.perf_counter() - started


def _send(inputs: Sequences, config: TeacherConfig) -> tuple[dict[str, float], torch.Tensor]:
    """Bytes and milliseconds a token, and the divergence [T]."""
    packer = PayloadPacker(config, inputs.head, inputs.num_vocab, SETTINGS.temperature)
    parts = inputs.teacher_hidden.split([len(completion) for completion in inputs.completions])
    head = ray.put(inputs.head)
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        payloads = [packer.pack(*pair) for pair in zip(parts, inputs.completions, strict=True)]
        packed = time.perf_counter()
        handles = [ray.put(payload) for payload in payloads]
        sent = time.perf_counter()
        microbatch = _microbatch(inputs, handles)
        rounds.append((packed - started, sent - packed, ray.get(_opening_s.remote(microbatch, head))))
    num_tokens = len(inputs.teacher_hidden)
    size = sum(array.nbytes for payload in payloads for array in _arrays(payload))
    milliseconds = [1000 * min(times) / num_tokens for times in zip(*rounds, strict=True)]
    names = ("pack_ms_per_token", "send_ms_per_token", "open_ms_per_token")
    figures = {"bytes_per_token": size / num_tokens, **dict(zip(names, milliseconds, strict=True))}
    return figures, _divergence(inputs, microbatch)


def _arrays(payload: Any) -> list[Any]:
    return [getattr(payload, name) for name in payload.__dataclass_fields__]


def _microbatch(inputs: Sequences, handles: list[Any]) -> Microbatch:
    samples = [
        Sample(
            example_id=str(number),
            epoch=0,
            rollout=Rollout(
                prompt_tokens=prompt,
                completion_tokens=completion,
                logprobs=(0.0,) * len(completion),
                weight_version=0,
                truncated=False,
                num_sampled=0,
            ),
            scores=TeacherScores(payload=handle, num_tokens=len(completion), teacher_version=0),
        )
        for number, (prompt, completion, handle) in enumerate(
            zip(inputs.prompts, inputs.completions, handles, strict=True)
        )
    ]
    return pack_microbatch(samples, [[1.0] * len(completion) for completion in inputs.completions])


@torch.no_grad()
def _divergence(inputs: Sequences, microbatch: Microbatch) -> torch.Tensor:
    heads = TeacherHeads(1)
    heads.hold(0, inputs.head)
    return fused_teacher_loss(
        student_hidden=inputs.student_hidden,
        student_head=inputs.head,
        teacher=open_payloads(microbatch, heads, "bucket", CPU),
        token_ids=torch.from_numpy(microbatch.completion_ids),
        token_weights=torch.from_numpy(microbatch.token_weights),
        sequence_ids=torch.from_numpy(microbatch.sequence_ids),
        sampler_logprobs=torch.from_numpy(microbatch.sampler_logprobs),
        settings=SETTINGS,
        num_vocab=inputs.num_vocab,
    ).divergence


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
