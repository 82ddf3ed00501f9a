"""The workers of one role: what every Ray actor of this job is, how it is called, what becomes of a lost one."""

from sdft_ray.workers.deadlines import Pace, Work, written
from sdft_ray.workers.group import WorkerGroup, close_all
from sdft_ray.workers.recovery import Recovery, RestartBudget
from sdft_ray.workers.worker import Worker, write_for_no_stranger

__all__ = [
    "Pace",
    "Recovery",
    "RestartBudget",
    "Work",
    "Worker",
    "WorkerGroup",
    "close_all",
    "write_for_no_stranger",
    "written",
]
