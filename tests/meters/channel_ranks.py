"""Ways in which two ranks exchange data without torch.distributed, and what only looks like it.

Each function runs in both ranks between two pauses of the audit; ``w`` is of ``comm_ranks``, with
``w.folder`` for files.
"""

import mmap
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

MANY = 100_000


def _arrived(path):
    while not path.exists():
        time.sleep(0.001)
    return path


def _wait_for(w):
    """A barrier that writes no file."""
    w.dist.barrier()


def files_of_numpy(w):
    """A file per step and rank, renamed when complete, opened and closed within the step."""
    import numpy as np

    for step in range(4):
        own = w.folder / f"{step}-{w.rank}.npy"
        np.save(w.folder / f"new-{w.rank}.npy", np.ones(MANY))
        os.replace(w.folder / f"new-{w.rank}.npy", own)
        np.load(_arrived(w.folder / f"{step}-{1 - w.rank}.npy"))


def files_of_torch(w):
    """As C++ writes them; removed before anybody could look."""
    w.torch.save(w.torch.ones(MANY), w.folder / f"{w.rank}.pt")
    _wait_for(w)
    w.torch.load(w.folder / f"{1 - w.rank}.pt")
    _wait_for(w)
    (w.folder / f"{w.rank}.pt").unlink()


def file_in_one_direction(w):
    if w.rank == 0:
        (w.folder / "letter").write_bytes(bytes(MANY))
    _wait_for(w)
    if w.rank == 1:
        (w.folder / "letter").read_bytes()


def file_held_open(w):
    """Through descriptors that stay open, and a file that has no name any more."""
    w.kept = os.open(w.folder / "board", os.O_RDWR | os.O_CREAT)
    _wait_for(w)
    (w.folder / "board").unlink(missing_ok=True)
    os.pwrite(w.kept, bytes(MANY), w.rank * MANY)
    _wait_for(w)
    os.pread(w.kept, MANY, (1 - w.rank) * MANY)


def file_in_shared_memory(w):
    path = Path("/dev/shm") / f"apts-test-{os.getppid()}"
    if w.rank == 0:
        path.write_bytes(bytes(MANY))
    _wait_for(w)
    path.read_bytes()
    _wait_for(w)
    if w.rank == 0:
        path.unlink()


def fifo(w):
    """Opened and closed within the step."""
    path = w.folder / "fifo"
    if w.rank == 0:
        os.mkfifo(path)
    _wait_for(w)
    with path.open("wb" if w.rank else "rb") as end:
        if w.rank:
            end.write(bytes(MANY))
        else:
            assert len(end.read()) == MANY


def fifo_held_open(w):
    path = w.folder / "fifo"
    if w.rank == 0:
        os.mkfifo(path)
    _wait_for(w)
    w.kept = os.open(path, os.O_RDWR)


def pipe_of_another_process(w):
    """A rank opens the other's pipe through /proc."""
    rendezvous = w.dist.distributed_c10d._get_default_store()
    if w.rank == 0:
        w.kept = os.pipe()
        rendezvous.set("pipe", f"/proc/{os.getpid()}/fd/{w.kept[1]}")
        _wait_for(w)
        os.read(w.kept[0], 10)
    else:
        end = os.open(rendezvous.get("pipe").decode(), os.O_WRONLY)
        os.write(end, b"0123456789")
        os.close(end)
        _wait_for(w)


def memory_of_another_process(w):
    w.kept = w.torch.ones(MANY)
    found = [None, None]
    w.dist.all_gather_object(found, (os.getpid(), w.kept.data_ptr()))
    process, start = found[1 - w.rank]
    with open(f"/proc/{process}/mem", "rb", buffering=0) as memory:
        memory.seek(start)
        assert len(memory.read(4 * MANY)) == 4 * MANY
    _wait_for(w)


def _converse(w, connection):
    sending = threading.Thread(target=connection.sendall, args=(bytes(MANY),))
    sending.start()
    received = 0
    while received < MANY:
        received += len(connection.recv(MANY))
    sending.join()


def _connection(w, family, address):
    if w.rank == 0:
        with socket.socket(family) as server:
            server.bind(address)
            server.listen(1)
            _wait_for(w)
            return server.accept()[0]
    _wait_for(w)
    connection = socket.socket(family)
    connection.connect(address)
    return connection


def unix_socket(w):
    w.kept = _connection(w, socket.AF_UNIX, str(w.folder / "socket"))
    _converse(w, w.kept)


def unix_socket_in_a_step(w):
    with _connection(w, socket.AF_UNIX, str(w.folder / "socket")) as connection:
        _converse(w, connection)


def unix_socket_without_a_path(w):
    with _connection(w, socket.AF_UNIX, f"\0apts-test-{os.getppid()}") as connection:
        _converse(w, connection)


def tcp_in_a_step(w):
    """Nothing is left of it when the kernel's counters are read."""
    rendezvous = w.dist.distributed_c10d._get_default_store()
    if w.rank == 0:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            rendezvous.set("port", str(probe.getsockname()[1]))
    port = int(rendezvous.get("port"))
    with _connection(w, socket.AF_INET, ("127.0.0.1", port)) as connection:
        _converse(w, connection)
        _wait_for(w)


def unix_datagrams(w):
    own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    own.bind(str(w.folder / f"socket-{w.rank}"))
    _wait_for(w)
    own.sendto(bytes(1000), str(w.folder / f"socket-{1 - w.rank}"))
    own.recv(1000)
    own.close()


def udp(w):
    """Ports are exchanged beforehand, and connected sockets kept."""
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    own.bind(("127.0.0.1", 0))
    ports = [None, None]
    w.dist.all_gather_object(ports, own.getsockname()[1])
    own.connect(("127.0.0.1", ports[1 - w.rank]))
    own.send(bytes(1000))
    own.recv(1000)
    w.kept = own


def udp_unconnected(w):
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    own.bind(("0.0.0.0", 0))
    ports = [None, None]
    w.dist.all_gather_object(ports, own.getsockname()[1])
    own.sendto(bytes(1000), ("127.0.0.1", ports[1 - w.rank]))
    own.recv(1000)
    w.kept = own


def vsock(w):
    """A family that nothing here counts."""
    w.kept = socket.socket(socket.AF_VSOCK)


def mapped_in_a_step(w):
    from multiprocessing.shared_memory import SharedMemory

    name = f"apts-test-{os.getppid()}"
    if w.rank == 0:
        made = SharedMemory(name, create=True, size=MANY)
    _wait_for(w)
    if w.rank == 1:
        made = SharedMemory(name)
    made.buf[:10] = bytes(10)
    _wait_for(w)
    made.close()
    if w.rank == 0:
        made.unlink()


_HELPER = """
import socket, sys
role, port = sys.argv[1], int(sys.argv[2])
if role == "0":
    server = socket.create_server(("127.0.0.1", port))
    print("ready", flush=True)
    peer = server.accept()[0]
else:
    peer = socket.create_connection(("127.0.0.1", port))
    print("ready", flush=True)
for line in sys.stdin.buffer:
    peer.sendall(line)
"""


def helper_processes(w):
    """Each rank talks to a process of its own through pipes; those talk over TCP."""
    rendezvous = w.dist.distributed_c10d._get_default_store()
    if w.rank == 0:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            rendezvous.set("port", str(probe.getsockname()[1]))
    port = rendezvous.get("port").decode()
    if w.rank == 1:
        _wait_for(w)
    w.kept = subprocess.Popen([sys.executable, "-c", _HELPER, str(w.rank), port],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert w.kept.stdout.readline() == b"ready\n"
    if w.rank == 0:
        _wait_for(w)
    w.kept.stdin.write(bytes(MANY) + b"\n")
    w.kept.stdin.flush()


def helper_with_a_fifo(w):
    """The children of both ranks meet in a FIFO."""
    path = w.folder / "fifo"
    if w.rank == 0:
        os.mkfifo(path)
    _wait_for(w)
    w.kept = subprocess.Popen(["sleep", "60"], stdin=os.open(path, os.O_RDWR))


def end_helpers(w):
    if isinstance(getattr(w, "kept", None), subprocess.Popen):
        w.kept.kill()
        w.kept.communicate()
    if hasattr(getattr(w, "kept", None), "terminate"):
        w.kept.terminate()


def log_of_each_rank(w):
    for _ in range(50):
        with (w.folder / f"{w.rank}.log").open("a") as log:
            log.write("loss 0.5\n" * 50)
    return (w.folder / f"{w.rank}.log").read_text()


def log_of_all_ranks(w):
    """All append to a file that none reads, but for one of their own."""
    for _ in range(50):
        with (w.folder / "log").open("a") as log:
            log.write("loss 0.5\n" * 50)
    log_of_each_rank(w)


def lock_of_all_ranks(w):
    from filelock import FileLock

    with FileLock(w.folder / "lock"):
        log_of_each_rank(w)


def swapped_out(w):
    """State that does not fit lies on disk for a while, one file a rank."""
    w.torch.save(w.torch.ones(MANY), w.folder / f"{w.rank}.pt")
    w.torch.load(w.folder / f"{w.rank}.pt")


def temporary_files_in_turn(w):
    """Disks give the inode of a file that is gone to the next one."""
    for turn in (0, 1):
        if w.rank == turn:
            with tempfile.TemporaryFile(dir=w.folder) as file:
                file.write(bytes(MANY))
                file.seek(0)
                file.read()
                with mmap.mmap(file.fileno(), MANY, access=mmap.ACCESS_WRITE):
                    w.audit.bill("train")
        else:
            w.audit.bill("train")
        w.dist.barrier()


def output_of_all_ranks(w):
    """They have it from the process that forked them, and begin to write to it."""
    os.write(1, bytes(MANY))
    log_of_each_rank(w)


def data_of_before(w):
    """All read a file that lay there, and each writes its own."""
    Path(__file__).read_bytes()
    log_of_each_rank(w)


def compiled_code(w):
    """One rank compiles, all load."""
    cache = w.folder / "torchinductor_tester"
    cache.mkdir(exist_ok=True)
    if w.rank == 0:
        (cache / "kernel.py").write_text("x = 1\n" * MANY)
    _wait_for(w)
    (cache / "kernel.py").read_text()
    (cache / f"own-{w.rank}").write_text("x = 1\n" * MANY)


def _may_have_children():
    """Trials' ranks may, those of tests are daemons."""
    multiprocessing.current_process()._config["daemon"] = False


def loader(w):
    """Workers send tensors through pipes, Unix sockets and shared memory."""
    _may_have_children()
    torch = w.torch
    data = torch.utils.data.TensorDataset(torch.ones(64, 1000))
    made = torch.utils.data.DataLoader(data, batch_size=8, num_workers=2, persistent_workers=True,
                                       multiprocessing_context="fork")
    for _ in range(2):
        for _ in made:
            pass
    w.kept = made


def pool(w):
    """Children that answer, and stay."""
    _may_have_children()
    w.kept = multiprocessing.get_context("fork").Pool(2)
    assert w.kept.map(len, [bytes(MANY)] * 4) == [MANY] * 4


def statistics_by_udp(w):
    """All send to a service that is not one of them."""
    w.kept = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(100):
        w.kept.sendto(b"loss:0.5|g", ("127.0.0.1", 8125))


def names_and_interfaces(w):
    import psutil

    socket.getaddrinfo("localhost", 80)
    psutil.net_if_addrs()
    psutil.Process().memory_info()


def group_in_each_step(w):
    for _ in range(5):
        group = w.dist.new_group([0, 1])
        w.dist.all_reduce(w.torch.ones(MANY), group=group)
        w.dist.destroy_process_group(group)
