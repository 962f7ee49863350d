"""Options that several commands take: what a study is made of and where its results go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from bench_apts.core.spec import Pruner, Sampler, Space

Suites = Annotated[list[str] | None, Option(
    "--suite", metavar="NAME|FILE", help="Suite by name or TOML file, or its variant: "
                                         "NAME@VARIANT; repeatable.  [default: digits]",
    show_default=False)]
Gpus = Annotated[str | None, Option(
    metavar="N,N,…", help="World sizes, for instance 1,2,4,8. Without GPUs each rank is a process "
                          "on the CPU.  [default: 1 and all GPUs, or all cores]",
    show_default=False)]
Optimizers = Annotated[str | None, Option(
    metavar="NAME|FILE,…", help="Competitors, for instance apts,sgd[momentum=0],my_optimizer.py.  "
                                "[default: all of `bench-apts list` that can run here, but "
                                "apts-paper, napts and tr]", show_default=False)]
Trials = Annotated[int, Option(
    min=0, help="Tuning trials at each N of each optimizer that needs tuning; 0 takes "
                "defaults.")]
BaseSeed = Annotated[int, Option(help="What all seeds are derived from.")]
SamplerOf = Annotated[Sampler, Option(
    "--sampler", help="How configurations are drawn: independently (random), evenly (halton, "
                      "grid) or learning from earlier trials (tpe).")]
PrunerOf = Annotated[Pruner, Option(
    "--pruner", help="Rule by which hopeless tuning trials are given up early.")]
SpaceOf = Annotated[Space, Option(
    "--space", help="Search space, of optimizers that declare two.")]
Share = Annotated[bool, Option(
    help="Let ZeRO take over what adam's search found, once it is seen to take the same course.")]
DataDir = Annotated[Path | None, Option(
    envvar="BENCH_APTS_DATA", help="Folder with data sets, see docs/data.md.")]
Out = Annotated[Path, Option(help="Folder that results folders are made in.")]
StudyName = Annotated[str | None, Option(
    "--study", metavar="NAME", help="Name of the results folder.  [default: the suites' names]",
    show_default=False)]
Changes = Annotated[list[str] | None, Option(
    "--set", metavar="KEY=VALUE", help="Change a suite, for instance suite.budget.samples=10000; "
                                       "repeatable.", show_default=False)]
Shared = Annotated[bool, Option(
    "--shared", help="Work on the study together with other commands that say so too.")]
ShardOf = Annotated[str | None, Option(
    "--shard", metavar="I/K", help="Run only the I-th of K parts, each in a results folder of its "
                                   "own; `bench-apts merge` joins them.", show_default=False)]
JobsOf = Annotated[int, Option(
    "--jobs", min=1, help="Tuning trials to run side by side, as far as cores or GPUs carry "
                          "them; their times are disturbed.")]
Nodes = Annotated[int | None, Option(
    "--nodes", min=1, help="Run the ranks on several machines: start the same command on each, "
                           "see docs/machines.md.  [default: 1, or as torchrun or srun say]",
    show_default=False)]
NodeRank = Annotated[int | None, Option(
    "--node-rank", min=0, help="Which of the machines this is; 0 leads and holds the results.",
    show_default=False)]
Rendezvous = Annotated[str | None, Option(
    "--rendezvous", metavar="HOST:PORT", help="Where node 0 waits for the others.",
    show_default=False)]
Patience = Annotated[int, Option(
    "--rendezvous-timeout", min=1, max=604_800, metavar="SECONDS",
    help="For how long the machines wait for each other at the start.")]
CheckpointEvery = Annotated[int | None, Option(
    "--checkpoint-every", min=1, metavar="SAMPLES",
    help="Write a checkpoint after each SAMPLES of a trial, at the next evaluation.  [default: "
         "only when SIGTERM ends the command]", show_default=False)]
Grace = Annotated[float, Option(
    "--grace", min=0.0, max=86_400.0, metavar="SECONDS",
    help="How long SIGTERM leaves a trial to write a checkpoint before it is killed.")]
Offline = Annotated[bool, Option("--offline", help="Never download anything.")]
