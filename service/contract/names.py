"""Closed sets of names that the API, the queue, the workers and the command line share."""

from typing import Literal, get_args

Resource = Literal["light", "gpu"]
RESOURCES: tuple[Resource, ...] = get_args(Resource)
"""Resource classes of tasks, in the order in which a worker claims them.

light: planning, indexing, selecting, reports; gpu: training and scoring, on a GPU or a CPU.
"""

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = get_args(Device)

Status = Literal["queued", "planning", "training", "scoring", "selecting", "succeeded", "failed", "cancelled"]
STATUSES: tuple[Status, ...] = get_args(Status)
ENDED: frozenset[Status] = frozenset({"succeeded", "failed", "cancelled"})
