"""Tasks: what is trained and measured. A suite names one, or a class of the user's."""

from bench_apts.tasks.contract import Metric as Metric
from bench_apts.tasks.contract import OutputTask as OutputTask
from bench_apts.tasks.contract import Task as Task
