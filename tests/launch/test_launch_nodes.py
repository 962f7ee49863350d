"""How the nodes of a study find each other, agree, and hear of each other's end."""

import copy
import socket
import threading
import time
from contextlib import closing, suppress
from types import SimpleNamespace

import pytest
from nodes_run import free_port

from bench_apts.core.errors import UserError
from bench_apts.core.job import RankJob
from bench_apts.launch import rendezvous
from bench_apts.launch.cluster import Placement, find_placement, first_host, unused_nodes_hint
from bench_apts.launch.multi_node import (
    ELSEWHERE,
    BeginTrial,
    Bye,
    ConnectionLost,
    EndedElsewhere,
    Hello,
    NodeChannel,
    RanksEnded,
    StopTrial,
)
from bench_apts.launch.processes import ProcessOutcome
from bench_apts.study import resolve
from bench_apts.study.node_follower import Follower, agreement_differences, node_agreement
from bench_apts.study.node_leader import Leader
from bench_apts.study.plan import Plan

TORCHRUN = {
    "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
    "GROUP_RANK": "1", "ROLE_NAME": "default", "MASTER_ADDR": "node01", "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_USE_AGENT_STORE": "True"}
SRUN = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_JOB_NUM_NODES": "4",
    "SLURM_STEP_NUM_NODES": "3", "SLURM_STEP_NUM_TASKS": "3", "SLURM_NODEID": "2",
    "SLURM_STEP_NODELIST": "node[07-09]"}


def test_one_machine_needs_no_word():
    environ = {"PATH": "/bin", "RANK": "5"}
    assert (
        find_placement(None, None, None, environ)
        == find_placement(1, None, None, environ)
        == Placement()
    )
    assert environ == {"PATH": "/bin", "RANK": "5"}, "without torchrun they are not torchrun's"


def test_options_place_a_node():
    assert find_placement(2, 1, "host-a:29400", {}) == Placement(2, 1, "host-a", 29400)
    assert find_placement(2, 0, "[fe80::1%eth0]:29400", {}).host == "fe80::1%eth0"
    assert find_placement(2, 0, "[::1]:29400", {}).endpoint == "[::1]:29400"


@pytest.mark.parametrize(("arguments", "says"), [
    ((2, None, "a:1"), "--nodes 2 needs --node-rank (0 to 1"),
    ((2, 0, None), "--rendezvous HOST:PORT"),
    ((2, 2, "a:1"), "--node-rank 2: with --nodes 2 it goes from 0 to 1"),
    ((None, 1, None), "say how many with --nodes"),
    ((1, None, "a:1"), "say how many with --nodes"),
    *(((2, 0, text), f"--rendezvous {text}: write HOST:PORT")
      for text in ("a", ":1", "a:", "a:x", "a:0", "a:65536", "u@a:1", "a:1/x", "[::1", "")),
])
def test_options_that_place_no_node(arguments, says):
    with pytest.raises(UserError) as error:
        find_placement(*arguments, {})
    assert says in str(error.value)


def test_torchrun_is_found_and_its_variables_reach_nobody():
    environ = TORCHRUN | {"PATH": "/bin"}
    place = find_placement(None, None, None, environ)
    assert (place.nodes, place.rank, place.host, place.port) == (2, 1, "node01", 0)
    assert place.outer == TORCHRUN
    assert environ == {"PATH": "/bin"}
    place = find_placement(2, 1, "node01:29400", dict(TORCHRUN))
    assert place == Placement(2, 1, "node01", 29400)
    environ = TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"}
    assert find_placement(None, None, None, environ) == Placement()
    assert environ == {}
    assert find_placement(1, None, None, dict(TORCHRUN)) == Placement(), (
        "--nodes 1 goes its own way"
    )


def test_srun_is_found():
    place = find_placement(None, None, None, dict(SRUN))
    assert (place.nodes, place.rank, place.host) == (3, 2, "node07")
    assert 20000 <= place.port < 30000
    other = find_placement(None, None, None, SRUN | {"SLURM_NODEID": "0"})
    assert (other.port, other.rank) == (place.port, 0)
    assert find_placement(None, None, None, SRUN | {"SLURM_STEP_ID": "1"}).port != place.port
    assert find_placement(None, None, "node08:29400", dict(SRUN)).endpoint == "node08:29400"
    batch = {k: v for k, v in SRUN.items() if "STEP" not in k}
    assert find_placement(None, None, None, batch) == Placement()
    assert "has 4 nodes and this command uses one" in unused_nodes_hint(batch)
    assert unused_nodes_hint(SRUN) == unused_nodes_hint({}) == ""


@pytest.mark.parametrize(("environ", "arguments", "says"), [
    (SRUN | {"SLURM_STEP_NUM_TASKS": "6"}, (None, None, None),
     "srun started 6 commands on 3 nodes; one starts the ranks of a node: say "
     "--ntasks-per-node 1 to srun"),
    (TORCHRUN | {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}, (None, None, None),
     "torchrun started 4 commands on 2 nodes; one starts the ranks of a node: say "
     "--nproc-per-node 1 to torchrun"),
    (TORCHRUN | {"LOCAL_WORLD_SIZE": "2"}, (None, None, None), "2 commands on 1 node;"),
    (SRUN, (2, None, None), "--nodes 2 contradicts srun, which says 3"),
    (SRUN, (None, 0, None), "--node-rank 0 contradicts srun, which says 2"),
    (TORCHRUN, (2, 0, None), "--node-rank 0 contradicts torchrun, which says 1"),
    (SRUN | {"SLURM_STEP_NODELIST": "node["}, (None, None, None), "is no list of hosts"),
    (SRUN | {"SLURM_NODEID": "x"}, (None, None, None), "SLURM_NODEID='x'"),
    (TORCHRUN | {"RANK": ""}, (None, None, None), "RANK=''"),
    (TORCHRUN | {"RANK": "2"}, (None, None, None), "torchrun says that this is node 2 of 2"),
    (TORCHRUN | {"LOCAL_WORLD_SIZE": "0", "RANK": "7"}, (None, None, None), "is node 7 of 2"),
    (SRUN | {"SLURM_NODEID": "3"}, (None, None, None), "srun says that this is node 3 of 3"),
])
def test_an_environment_that_contradicts(environ, arguments, says):
    with pytest.raises(UserError) as error:
        find_placement(*arguments, dict(environ))
    assert says in str(error.value)


@pytest.mark.parametrize(("nodelist", "first"), [
    ("node01", "node01"), ("node[01-03,7]", "node01"), ("node[7,01-03],login", "node7"),
    ("a,b", "a"), ("rack[2-3]-n[05,09].site.org,x", "rack2-n05.site.org")])
def test_the_first_host_of_a_hostlist(nodelist, first):
    assert first_host(nodelist) == first


def test_ranks_are_spread_evenly(monkeypatch):
    monkeypatch.setattr("bench_apts.core.gpu_devices.gpu_count", lambda: 0)
    monkeypatch.setattr("bench_apts.core.environment.cores", lambda: 4)
    assert resolve.world_sizes(None, [], 3) == ("cpu", (1, 12))
    assert resolve.world_sizes("1,3,6", [], 3) == ("cpu", (1, 3, 6))
    for text in ("2", "1,4", "3,5"):
        with pytest.raises(UserError, match="spread evenly over 3 nodes; choose 1 or multiples"):
            resolve.world_sizes(text, [], 3)
    monkeypatch.setattr("bench_apts.core.gpu_devices.gpu_count", lambda: 8)
    assert resolve.world_sizes("16", [], 2) == ("cuda", (16,))
    with pytest.raises(UserError, match="2 nodes like this one have 16 GPUs"):
        resolve.world_sizes("18", [], 2)


def test_what_differs_is_named():
    ours = {"python": "3.11", "study": {"ranks": [1, 2], "suites": [{"batch_size": 64}]}}
    assert agreement_differences(ours, copy.deepcopy(ours), "node 0", "node 1") == ""
    theirs = {"python": "3.12", "study": {"ranks": [1, 2, 4], "suites": [{"batch_size": 65}]},
              "more": 1}
    text = agreement_differences(ours, theirs, "node 0", "node 1")
    assert text == ("python is 3.11 on node 0 and 3.12 on node 1; study.ranks is [1,2] on node 0 "
                    "and [1,2,4] on node 1; study.suites[0].batch_size is 64 on node 0 and 65 on "
                    "node 1 and 1 more")


@pytest.fixture
def plan(make_study, digits):
    return Plan(make_study("sgd", ranks=(2,)), {"digits": digits})


def test_an_agreement_speaks_of_code_options_plug_ins_and_data(plan, make_study, digits, plugin):
    ours = node_agreement(plan)
    assert agreement_differences(ours, node_agreement(plan), "a", "b") == ""
    other = Plan(make_study("sgd", ranks=(2,), base_seed=1), {"digits": digits})
    assert (
        agreement_differences(ours, node_agreement(other), "a", "b")
        == "study.base_seed is 0 on a and 1 on b"
    )
    first = node_agreement(Plan(make_study(plugin(), ranks=(2,)), {"digits": digits}))
    later = node_agreement(
        Plan(make_study(plugin(on_step="x = 1"), ranks=(2,)), {"digits": digits})
    )
    assert "plug-ins" in agreement_differences(first, later, "a", "b")
    assert len(ours["bench-apts code"]) == 64


@pytest.fixture
def free():
    """A port that nobody uses."""
    return free_port()


@pytest.fixture
def meet(plan, free):
    """Lets a leader and followers meet on this machine, and tells what became of each."""
    leaders, followers = [], {}

    def meet(*agreements, nodes=None, ranks=None, patience_s=100.0):
        nodes = nodes or len(agreements)
        ranks = range(1, nodes) if ranks is None else ranks
        leader = Leader(Placement(nodes, 0, "127.0.0.1", free), agreements[0], {"hostname": "h0"})
        leaders.append(leader)
        errors = {}

        def attempt(rank, act):
            try:
                act()
            except UserError as error:
                errors.setdefault(rank, str(error))

        def join(rank, ours):
            followers[rank] = Follower(Placement(nodes, rank, "127.0.0.1", free), plan, ours,
                                       {"hostname": f"h{rank}"}, patience_s)

        def lead():
            with leader:
                leader.gather(patience_s, lambda text: None)
                kept.append(leader.dismiss)
                leader.dismiss = lambda *words: None  # the test goes on with the nodes

        kept = []
        threads = [threading.Thread(target=attempt, args=(0, lead)), *(
            threading.Thread(target=attempt, args=(rank, lambda r=rank, a=ours: join(r, a)))
            for rank, ours in zip(ranks, agreements[1:], strict=True))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(150)
            assert not thread.is_alive()
        if kept:
            leader.dismiss = kept[0]
        return SimpleNamespace(leader=leader, followers=dict(followers), errors=errors)

    yield meet
    for leader in leaders:
        leader.dismiss()
    for follower in followers.values():
        follower.__exit__(None, None, None)


def test_nodes_meet_and_know_each_other(meet):
    met = meet({"python": "3"}, {"python": "3"}, {"python": "3"})
    assert met.errors == {}
    assert [m["hostname"] for m in met.leader.machines] == ["h0", "h1", "h2"]
    assert [f.leader for f in met.followers.values()] == ["h0", "h0"]
    assert rendezvous.interface_of(met.leader.address) == "lo"
    assert rendezvous.interface_of(met.followers[1].address) == "lo"
    met.leader.ready()


def test_nodes_that_differ_are_told_so_on_both_sides(meet):
    met = meet({"python": "3"}, {"python": "4"})
    text = ("the nodes differ: python is 3 on node 0 and 4 on node 1 (h1); give all the same "
            "code, options and data")
    assert met.errors == {0: text, 1: text}


def test_a_node_that_does_not_come_is_named(meet):
    met = meet({}, {}, nodes=3, ranks=[2], patience_s=3.0)
    assert met.errors[0].startswith("node 1 did not come to 127.0.0.1:")
    assert "within 3 s" in met.errors[0]
    # The one that came is not left alone.
    assert met.followers[2]._next() == Bye(2, met.errors[0])


def test_two_nodes_of_one_number(meet):
    met = meet({}, {}, {}, nodes=3, ranks=[1, 1], patience_s=3.0)
    assert met.errors[0].startswith("node 2 did not come")
    assert met.errors[1].startswith("node 0 has a node 1 already")


def test_strangers_are_sent_away(meet, free):
    def knock():
        while not done.is_set():
            try:
                with socket.create_connection(("127.0.0.1", free), 1) as stranger:
                    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    answers.append(stranger.recv(100))
            except OSError:
                continue

    done, answers = threading.Event(), []
    thread = threading.Thread(target=knock)
    thread.start()
    try:
        met = meet({}, {})
    finally:
        done.set()
        thread.join()
    assert met.errors == {}
    assert set(answers) <= {b""}


def test_a_port_that_is_taken_and_an_address_of_another_machine(free):
    with (closing(socket.create_server(("127.0.0.1", free))),
          pytest.raises(UserError, match=r"cannot wait .* Address already in use; choose ")):
        rendezvous.listen("127.0.0.1", free)
    with pytest.raises(UserError, match=r"this machine has no address 192\.0\.2\.1"):
        rendezvous.listen("192.0.2.1", free)
    with closing(rendezvous.listen("some-name", free)) as listener:
        assert listener.getsockname()[0] in ("::", "0.0.0.0")


def test_a_leader_that_is_not_there_is_named(free, plan):
    with pytest.raises(UserError, match=f"no answer from node 0 at 127.0.0.1:{free} within 1 s"):
        Follower(Placement(2, 1, "127.0.0.1", free), plan, {}, {}, 1.0)


@pytest.fixture
def job(make_trial, digits):
    return RankJob(make_trial("sgd", 2), str(digits.folder), "events")


@pytest.fixture
def others(meet, job):
    """A leader that has begun a trial, and its followers' connections."""

    def begin(nodes=3):
        met = meet(*[{}] * nodes)
        place = met.leader.begin(job, 10.0)
        assert (place.nodes, place.rank) == (nodes, 0)
        return met.leader, [met.followers[rank]._channel for rank in range(1, nodes)]

    return begin


def raised(look, patience_s=100):
    """Calls ``look`` until it raises, as what was said has then arrived; returns the error."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            look()
        except (EndedElsewhere, UserError) as error:
            return error
    return None


FELL = ProcessOutcome("error", "rank 0: RuntimeError: Connection closed by peer")


def test_where_a_trial_failed_first_is_found(others):
    leader, (one, two) = others()
    one.send(RanksEnded(1, "error", "rank 1: Connection reset by peer", "there"))
    two.send(RanksEnded(1, "oom", "rank 2: out of memory", "here"))
    assert leader.settled(FELL) == ProcessOutcome(
        "oom", "node 2 (h2), rank 2: out of memory", "here"
    )


def test_a_trial_that_fails_elsewhere_ends_here(others):
    leader, (one, two) = others()
    leader._watch()
    one.send(RanksEnded(1, "error", "rank 1: ValueError", "there"))
    two.send(RanksEnded(1, ELSEWHERE.status, ELSEWHERE.reason, None))
    assert isinstance(raised(leader._watch), EndedElsewhere)
    assert leader.settled(ELSEWHERE) == ProcessOutcome("error", "node 1 (h1), rank 1: ValueError",
                                                "there")
    leader.ready()


def test_a_node_that_is_gone_is_named_and_the_others_are_stopped(others):
    leader, (one, two) = others()
    one.close()
    assert isinstance(raised(leader._watch), EndedElsewhere)
    threading.Timer(
        0.2, two.send, [RanksEnded(1, ELSEWHERE.status, ELSEWHERE.reason, None)]
    ).start()
    outcome = leader.settled(FELL)
    assert outcome == ProcessOutcome("error", "node 1 (h1) is gone: it closed the connection")
    assert isinstance(two.receive(100, BeginTrial), BeginTrial)
    assert two.receive(100, StopTrial) == StopTrial(1)
    with pytest.raises(UserError, match=r"node 1 \(h1\) is gone: it closed the connection; "):
        leader.ready()


def test_a_node_says_why_it_leaves(others):
    leader, (one,) = others(2)
    one.send(Bye(143))
    assert "is gone: it ended with code 143" in str(raised(leader.ready))


def test_a_trial_that_ends_in_order_on_another_node(others):
    leader, (one,) = others(2)
    one.send(RanksEnded(1, "interrupted", "ended by SIGTERM", None))
    leader._watch()  # its ranks and ours have agreed on it; ours are about to end
    assert leader.settled(ProcessOutcome("interrupted")) == ProcessOutcome(
        "interrupted", "node 1 (h1), ended by SIGTERM")


def test_what_was_said_of_an_earlier_trial_does_not_count(others, job):
    leader, (one,) = others(2)
    one.send(RanksEnded(1, "hit", None, None))
    assert leader.settled(ProcessOutcome("hit")) == ProcessOutcome("hit")
    leader.begin(job, 10.0)
    one.send(RanksEnded(1, "error", "late", None))
    one.send(RanksEnded(2, "hit", None, None))
    assert leader.settled(ProcessOutcome("hit")) == ProcessOutcome("hit")


def test_followers_hear_how_node_0_ended(others):
    leader, (one, two) = others()
    leader.dismiss(143)
    for channel in (one, two):
        assert isinstance(channel.receive(100, BeginTrial), BeginTrial)
        assert channel.receive(100, Bye) == Bye(143)


def test_a_channel_takes_no_nonsense():
    server = socket.create_server(("127.0.0.1", 0))
    for words, why in ((b"{}\n", "no bench-apts of this version"),
                       (b"\x80\x04pickle\n", "no bench-apts of this version"),
                       (b'{"type":"stop","number":1}\n', "StopTrial out of turn"),
                       (b"", "closed the connection"), (b"x" * 2**23, "too long")):
        other = socket.create_connection(server.getsockname())
        channel = NodeChannel(server.accept()[0])
        assert channel.receive(0.0, Hello) is None
        writer = threading.Thread(target=_say, args=(other, words))
        writer.start()
        with pytest.raises(ConnectionLost, match=why):
            channel.receive(100.0, Hello)
        channel.close()
        writer.join()
    server.close()


def _say(connection, words):
    with connection, suppress(OSError):  # the channel has heard enough
        connection.sendall(words)
