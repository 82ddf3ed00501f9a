"""One DeepSpeed rank in one Ray actor: the actor's side, which forwards to `rank.py`."""

import ipaddress
import os
import socket
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import ray
import torch

from sdft_ray.errors import ClusterError
from sdft_ray.examples import GuardRow
from sdft_ray.learner.manifest import SavedFile
from sdft_ray.learner.settings import LearnerSettings
from sdft_ray.models.packing import Packing
from sdft_ray.records import MatmulSeconds, Microbatch, Publication, RankReport, TokenViews
from sdft_ray.weights.channel import Meeting, WeightKind
from sdft_ray.weights.checksum import checksum
from sdft_ray.workers.spans import add_span, span
from sdft_ray.workers.worker import Worker, importing

if TYPE_CHECKING:
    from sdft_ray.learner.rank import LearnerRank

COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # torch's, and DeepSpeed's own; a hung rank is found before by its deadline
REACH_TIMEOUT_S = 10.0  # of a connection, beyond which a firewall has swallowed it


class LearnerWorker(Worker):
    """A rank of the learner group. What its methods do stands at those of the same names of `LearnerRank`."""

    role = "learner"
    _inner: "LearnerRank"

    def __init__(self, *, rank: int, num_ranks: int, log_dir: str, settings: LearnerSettings):
        super().__init__(rank, log_dir)
        self._num_ranks = num_ranks
        self._settings = settings
        self._door: socket.socket | None = None

    def rendezvous(self) -> tuple[str, int]:
        """An address and a free port on this worker's node, for all ranks to meet at; asked of rank 0."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def listen(self) -> tuple[str, int]:
        """Address and port where this rank can be reached until it starts."""
        self._door = socket.create_server((ray.util.get_node_ip_address(), 0), backlog=self._num_ranks)
        return ray.util.get_node_ip_address(), self._door.getsockname()[1]

    def reach(self, address: str, port: int) -> None:
        """Connects to a rank that listens.

        Raises:
            ClusterError: the network does not let it.
        """
        try:
            socket.create_connection((address, port), timeout=REACH_TIMEOUT_S).close()
        except OSError as error:
            raise ClusterError(
                f"{self.name} on {ray.util.get_node_ip_address()} does not reach port {port} of {address} ({error}), "
                "and ranks meet on ports that the system chooses; open all TCP ports between the nodes, or set "
                "cluster.learner so that all ranks have room on one node."
            ) from error

    def start(self, address: str, port: int) -> Packing:
        """Makes the rank, together with all others; returns the packing that its network computes rightly."""
        if self._door is not None:
            self._door.close()
        # DeepSpeed reads these when it is imported and initialised, and nowhere else.
        os.environ |= {
            "RANK": str(self.rank),
            "LOCAL_RANK": "0",  # Ray shows every actor only its own GPU
            "WORLD_SIZE": str(self._num_ranks),
            "MASTER_ADDR": address,
            "MASTER_PORT": str(port),
        }
        meet(address, port, self.rank, self._num_ranks, "nccl" if self._settings.device == "cuda" else "gloo")
        return self._make()

    def _make(self) -> Packing:
        with importing():
            from sdft_ray.learner.rank import LearnerRank

        self._inner = LearnerRank(self._settings, rank=self.rank)
        self.weight_version = self._inner.weight_version
        return self._inner.packing.packing

    def notes(self) -> tuple[str, ...]:
        """See `Worker.notes`."""
        return self._inner.notes()

    def accumulate(self, microbatch: Microbatch, is_last: bool) -> list[TokenViews]:
        """Adds this rank's part of one round to the gradient."""
        facts = {"sequences": len(microbatch.example_ids), "tokens": len(microbatch.input_ids)}
        with span("forward and backward", **facts, weight_version=self.weight_version):
            return self._inner.accumulate(microbatch, is_last)

    def apply(self) -> RankReport:
        """One optimizer step, then one step of the moving average."""
        start_ns = time.time_ns()
        report = self._inner.apply()
        self.weight_version = self._inner.weight_version
        applied_ns = start_ns + round(1e9 * report.durations_s["learner/optimizer_s"])
        averaged_ns = applied_ns + round(1e9 * report.durations_s["learner/ema_s"])
        add_span("optimizer", start_ns, applied_ns, weight_version=self.weight_version)
        add_span("average", applied_ns, averaged_ns, weight_version=self.weight_version)
        return report

    def measure_matmuls(self) -> MatmulSeconds:
        """What the matrix products of the weights take."""
        return self._inner.measure_matmuls()

    def publish(self, kind: WeightKind) -> Publication | None:
        """Makes the current weights of `kind` available to the workers."""
        with span("publish", weights=kind.value, weight_version=self.weight_version):
            return self._inner.publish(kind)

    def checksum(self, publication: Publication) -> tuple[str, str]:
        """This worker's name, and what it reads of a publication, which it does not load."""
        return self.name, checksum(publication)

    def connect(self, meeting: Meeting) -> Publication | None:
        """Joins the rollout engines, to which the student's weights are pushed from now on."""
        return self._inner.connect(meeting)

    def save(self, folder: str, background: bool) -> SavedFile | str | None:
        """Writes this rank's part of a checkpoint, or begins to."""
        with span("save", weight_version=self.weight_version):
            return self._inner.save(folder, background)

    def saved(self) -> SavedFile | str | None:
        """What the write that `save` began has come to."""
        return self._inner.saved()

    def load(self, folder: str, version: int) -> int:
        """Restores this rank's part of a checkpoint; returns the weight version it now holds."""
        self.weight_version = self._inner.load(folder, version)
        return self.weight_version

    def export(self, folder: str, merged: bool = False) -> None:
        """Writes the student as an ordinary Hugging Face folder, or its adapter as a PEFT folder."""
        self._inner.export(folder, merged)

    def logprobs(self, rows: Sequence[GuardRow]) -> list[tuple[float, ...]]:
        """Logprobs of the completion tokens of every row."""
        return self._inner.logprobs(rows)

    def export_gap(self, folder: str, rows: Sequence[GuardRow]) -> float:
        """What an exported folder's logits differ from the student's."""
        return self._inner.export_gap(folder, rows)

    def weights(self, kind: WeightKind) -> dict[str, torch.Tensor]:
        """The fp32 masters of `kind` on rank 0."""
        return self._inner.weights(kind)

    def sleep(self) -> None:
        """See `Worker.sleep`."""
        if hasattr(self, "_inner"):
            self._inner.sleeping.put_away()

    def wake(self) -> None:
        """See `Worker.wake`."""
        if hasattr(self, "_inner"):
            self._inner.sleeping.take_back()

    def close(self) -> None:
        """Leaves the group of ranks."""
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def meet(address: str, port: int, rank: int, num_ranks: int, backend: str) -> None:
    """Joins the process group, which DeepSpeed then finds.

    Rank 0 listens at `address` alone. torch's own rendezvous would at every address of the machine, without a token.
    """
    if ipaddress.ip_address(address).is_loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # or gloo listens where the machine's name leads
    listening = None
    if rank == 0:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listening = socket.create_server((address, port), family=family, backlog=num_ranks)
    store = torch.distributed.TCPStore(
        address,
        port,
        num_ranks,
        is_master=rank == 0,
        timeout=COLLECTIVE_TIMEOUT,
        master_listen_fd=listening.detach() if listening else None,  # the store's from here on
    )
    torch.distributed.init_process_group(
        backend, store=store, rank=rank, world_size=num_ranks, timeout=COLLECTIVE_TIMEOUT
    )
