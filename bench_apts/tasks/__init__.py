"""Tasks: what is trained and measured. A suite names one, or a class of the user's."""

from bench_apts.tasks.task import Metric as Metric
from bench_apts.tasks.task import OutputTask as OutputTask
from bench_apts.tasks.task import Task as Task
