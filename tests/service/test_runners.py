"""What every runner must do, with real processes and a real Docker engine."""

from __future__ import annotations

import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlaas.jobs.runners.base import RunnerError
from tests.service.runners import OTHER, USER, bench, containers, processes
from tests.support.programs import find_program

__all__ = ["bench", "containers", "processes"]

# ---- running


def test_a_task_runs_and_its_output_is_kept_in_order(bench):
    log = bench.output("for i in range(200):\n    print('out', i, flush=True)\n    print('err', i, file=sys.stderr)")
    assert log == "".join(f"out {i}\nerr {i}\n" for i in range(200))


@pytest.mark.parametrize("code", [0, 1, 2, 42, 130])
def test_the_exit_code_is_told(bench, code):
    before = time.time()
    task = bench.start(f"sys.exit({code})")
    status = bench.wait(task)
    assert (status.end, status.exit_code) == ("exit", code)
    assert before - 1 <= status.started <= status.finished <= time.time() + 1


def test_a_task_is_known_from_its_start_to_its_cleaning_up(bench):
    task = bench.task("open('runs', 'a').write('x')")
    jobs = bench.places.data / "jobs"
    assert bench.runner.poll(task.id, task.folder) is None
    assert bench.runner.tasks(jobs) == []
    assert not bench.runner.holds(task.id, task.folder)
    bench.runner.cancel(task.id, task.folder)  # of a task that is not known: nothing
    bench.runner.cleanup(task.id, task.folder)
    bench.runner.submit(task)
    assert bench.runner.tasks(jobs) == [task.id]
    assert bench.runner.holds(task.id, task.folder)
    assert not bench.runner.holds("another-1", task.folder)
    assert bench.runner.poll("another-1", task.folder) is None
    bench.runner.submit(task)
    ended = bench.wait(task)
    bench.again().submit(task)
    assert bench.status(task) == ended
    assert bench.runner.tasks(jobs) == [task.id]
    bench.runner.cleanup(task.id, task.folder)
    bench.runner.cleanup(task.id, task.folder)
    assert bench.runner.poll(task.id, task.folder) is None
    assert bench.runner.tasks(jobs) == []
    assert not bench.runner.holds(task.id, task.folder)
    bench.runner.submit(task)
    bench.runner.cancel(task.id, task.folder)
    assert (task.folder / "work" / "runs").read_text() == "x"


def test_a_running_task_is_not_cleaned_up(bench):
    task = bench.start("escape('beat')\ntime.sleep(60)")
    bench.appears(task, "beat")
    bench.runner.cleanup(task.id, task.folder)
    assert bench.status(task).running
    assert not bench.still(task, "beat")


def test_a_second_attempt_goes_on_in_the_same_folder(bench):
    first = bench.start("open('left', 'w').write('by the first'); print('one'); sys.exit(1)")
    assert bench.wait(first).exit_code == 1
    bench.runner.cleanup(first.id, first.folder)
    second = bench.task("print(open('left').read())", job=first.folder.name, attempt=2)
    bench.runner.submit(second)
    assert bench.wait(second).exit_code == 0
    assert bench.log(second) == "one\nby the first\n"
    assert bench.runner.poll(first.id, first.folder) is None


def test_check_finds_nothing_to_say(bench):
    bench.runner.check()


def test_many_tasks_at_once(bench):
    tasks = [bench.start(f"time.sleep(0.3); print({number})") for number in range(6)]
    assert bench.runner.tasks(bench.places.data / "jobs") == sorted(task.id for task in tasks)
    assert [bench.wait(task).exit_code for task in tasks] == [0] * 6
    assert [bench.log(task) for task in tasks] == [f"{number}\n" for number in range(6)]


# ---- output


def test_much_output_arrives_whole(bench):
    log = bench.output("for i in range(100_000):\n    print(f'{i:08} ' + 'x' * 20)")
    assert log == "".join(f"{i:08} {'x' * 20}\n" for i in range(100_000))


def test_binary_junk_and_endless_lines_are_output_too(bench):
    log = bench.output("sys.stdout.buffer.write(bytes(range(256)) * 50 + b'y' * 300_000 + b'end')\nsys.stdout.flush()")
    assert log.count("y") >= 300_000
    assert log.endswith("end")


def test_the_log_ends_at_its_limit_and_the_job_goes_on(bench):
    code = "for i in range(30_000):\n    print('z' * 99)\nopen('done', 'w').close()"
    task = bench.start(code, log_limit=200_050)
    assert bench.wait(task).exit_code == 0
    log = bench.log(task)
    assert log[:200_050] == (("z" * 99 + "\n") * 2001)[:200_050]
    assert log[200_050:] == "\nmlaas: the log is cut off here: more than 200,050 bytes\n"
    assert (task.folder / "work" / "done").exists()


def test_output_is_taken_on_by_the_next_worker_without_loss_or_repetition(bench):
    task = bench.start("for i in range(400):\n    print(i, flush=True)\n    time.sleep(0.003)")
    while bench.status(task).running:
        bench.again()
    assert bench.log(task) == "".join(f"{i}\n" for i in range(400))


# ---- what a job is


def test_the_environment_has_nothing_of_the_service(bench, monkeypatch):
    monkeypatch.setenv("MLAAS_TEST_SECRET", "hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    task = bench.task("print('\\n'.join(f'{k}={v}' for k, v in os.environ.items()))", environment={"SITE": "T2", "MLAAS_TASK": "other"})
    bench.runner.submit(task)
    assert bench.wait(task).exit_code == 0
    variables = dict(line.split("=", 1) for line in bench.log(task).splitlines())
    assert "hush" not in variables.values()
    assert variables["HOME"] == str(task.folder / "work")
    assert variables["TMPDIR"] == str(task.folder / "work" / "tmp")
    assert variables["MLAAS_CACHE"] == str(task.cache)
    assert (variables["SITE"], variables["MLAAS_TASK"], variables["OMP_NUM_THREADS"]) == ("T2", task.id, "1")
    assert variables["MLAAS_MEMORY_LIMIT"] == str(task.memory // 2)


def test_the_job_has_no_privileges(bench):
    log = bench.output("""
        fields = dict(line.rstrip().split(":", 1) for line in open("/proc/self/status") if ":" in line)
        print(*(fields[name].split()[0] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Uid", "Gid")))
        print(set(os.getgroups()) <= {os.getgid()})
        print(sys.stdin.read() == "", os.getcwd() == os.environ["HOME"], oct(os.umask(0)))
        print([name for name in os.listdir("/proc/self/fd") if int(name) > 3])
        """)
    first, *rest = log.splitlines()
    *capabilities, no_new, user, group = first.split()
    bounded = capabilities[:3] + capabilities[4:] if USER is None else capabilities
    assert set(bounded) == {"0" * 16}
    assert no_new == "1"
    assert (int(user), int(group)) == (USER or os.getuid(), USER or os.getgid())
    assert USER is None or rest[0] == "True"  # who cannot change users keeps their groups
    assert rest[1].startswith("True True")
    assert rest[2] == "[]"


def test_the_job_cannot_become_root(bench):
    task = bench.task("""
        for attempt in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.chroot("."), lambda: os.mknod("null", 0o20666, os.makedev(1, 3))):
            try:
                attempt()
                print("done")
            except OSError as error:
                print(error.errno)
        """)
    bench.runner.submit(task)
    bench.wait(task)
    assert set(bench.log(task).split()) <= {"1", "13"}


# ---- what a job can reach


@pytest.fixture
def neighbourhood(bench, tmp_path):
    """What is around a job; with modes that let everybody in, so that only the sandbox keeps it out."""
    places = bench.places
    files = [
        places.secrets / "token",
        places.database,
        places.data / "mlaas.db-wal",
        places.workspace("ben", "space", 1) / "events.root",
        places.job("of-ben") / "work" / "model.py",
        places.job("of-ben") / "log.txt",
        places.cache("ben") / "specs.json",
        places.repository / "ben" / "net" / "1" / "manifest.json",
        tmp_path / "elsewhere" / "notes.txt",
    ]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("secret")
        file.chmod(0o666)
        for folder in (file.parent, *file.parents):
            if tmp_path in folder.parents or folder == tmp_path:
                folder.chmod(0o777)
    return files


def test_the_job_cannot_read_what_is_not_its_own(bench, neighbourhood):
    paths = [str(path) for path in (*neighbourhood, *(path.parent for path in neighbourhood))]
    mine = ["../log.txt", "../task.json", "../status.json", ".."]
    system = ["/etc/shadow", "/etc/gshadow", "/run/docker.sock", "/var/run/docker.sock", "/root", "/proc/1/environ", "/proc/1/root", "/proc/1/mem"]
    log = bench.output(f"""
        def reach(path):
            try:
                os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(10)
            except OSError:
                return
            print("read", path, os.path.isdir(path) and os.listdir(path))
        for path in {paths + mine + system!r}:
            reach(path)
        """)
    seen = [line for line in log.splitlines() if "secret" in line or not _harmless(bench, line)]
    assert seen == []


def _harmless(bench, line):
    """In a container: its own /root and process 1, and the empty folders that lead to its mounts."""
    words = line.split(maxsplit=2)
    if bench.runner.name == "process":
        return words[1] == "/root" and words[2] == "['.pyenv']"  # what leads to Python
    return words[1].startswith(("/root", "/proc/1/")) or all(name in str(bench.places.data) or name in _ON_THE_WAY for name in eval(words[2]))  # noqa: S307  our own list


_ON_THE_WAY = {"data", "work", "input", "jobs", "cache", "anna", "job1", "tmp"}


def test_the_job_cannot_write_outside_its_folders(bench, neighbourhood):
    site = bench.places.workspace("anna", "space", 1)
    site.mkdir(parents=True)
    (site / "events.root").write_text("events")
    task = bench.task(f"""
        site = {str(site)!r}
        outside = [*{[str(path.parent) for path in neighbourhood]!r}, "..", "../input", site]
        outside += ["/", "/etc", "/usr", "/var/tmp", "/dev", "/proc", "/sys"]
        for folder in outside:
            try:
                open(os.path.join(folder, "written"), "w")
                print("wrote", folder)
            except OSError:
                pass
            try:
                os.symlink("/etc/passwd", os.path.join(folder, "linked"))
                print("linked", folder)
            except OSError:
                pass
        for path in [*{[str(path) for path in neighbourhood]!r}, site + "/events.root", "../input/files.txt", "../log.txt", "../status.json"]:
            for change in (lambda: os.truncate(path, 0), lambda: os.unlink(path), lambda: os.rename(path, "mine"), lambda: os.link(path, "mine")):
                try:
                    change()
                    print("changed", path)
                except OSError:
                    pass
        """, readable=[site])  # fmt: skip
    (task.folder / "input").mkdir()
    (task.folder / "input" / "files.txt").write_text("a.root")
    bench.runner.submit(task)
    assert bench.wait(task).exit_code == 0
    assert bench.log(task) == ""
    assert all(path.read_text() == "secret" for path in neighbourhood)


def test_the_job_reads_its_inputs_and_writes_its_own(bench):
    site = bench.places.workspace("anna", "space", 1)
    (site / "deep").mkdir(parents=True)
    (site / "deep" / "events.root").write_text("events")
    (site / "deep" / "events.root").chmod(0o600)
    site.chmod(0o700)
    task = bench.task(f"""
        print(open({str(site / "deep" / "events.root")!r}).read(), open("../input/files.txt").read(), os.listdir({str(site)!r}))
        os.makedirs("a/b"); os.makedirs("c"); open("a/b/x", "w").write("made")
        os.rename("a/b/x", "c/y"); os.symlink("c/y", "z"); os.mkfifo("fifo"); os.unlink("fifo")
        cache = os.environ["MLAAS_CACHE"]
        open(cache + "/kept", "w").write("kept"); open(os.environ["TMPDIR"] + "/t", "w").write("t")
        print(open("z").read(), open(cache + "/kept").read())
        import multiprocessing, tempfile
        tempfile.TemporaryFile().write(b"x")
        print(multiprocessing.Pool(2).map(abs, [-1, -2]), os.read(os.open("/dev/urandom", os.O_RDONLY), 1) != b"")
        """, readable=[site])  # fmt: skip
    (task.folder / "input").mkdir(mode=0o700)
    (task.folder / "input" / "files.txt").write_text("a.root")
    bench.runner.submit(task)
    assert bench.wait(task).exit_code == 0, bench.log(task)
    assert bench.log(task) == "events a.root ['deep']\nmade kept\n[1, 2] True\n"
    assert (task.folder / "work" / "c" / "y").read_text() == "made"


@contextmanager
def sleeper(user):
    """A process of a user, or of this one."""
    process = subprocess.Popen([str(find_program("sleep")), "100"], user=user, group=user, env={"SECRET": "hush"})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_other_processes_of_the_same_user_are_out_of_reach(bench):
    with sleeper(USER) as process:
        log = bench.output(f"""
            import ctypes, resource
            pid = {process.pid}
            libc = ctypes.CDLL(None, use_errno=True)
            def try_(what, call):
                try:
                    call()
                    print(what)
                except OSError:
                    pass
            try_("signal", lambda: os.kill(pid, signal.SIGSTOP))
            try_("environment", lambda: open(f"/proc/{{pid}}/environ", "rb").read())
            try_("memory", lambda: open(f"/proc/{{pid}}/mem", "rb").read(1))
            try_("folder", lambda: os.listdir(f"/proc/{{pid}}/cwd/"))
            try_("limits", lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1)))
            if libc.ptrace(16, pid, 0, 0) == 0:
                print("traced")
            """)
        assert log == ""
        assert process.poll() is None


@pytest.fixture
def open_folder():
    """A folder that everybody can reach; a socket's path must be short."""
    with tempfile.TemporaryDirectory(prefix="mlaas-sockets-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def test_sockets_of_the_machine_are_out_of_reach(bench, open_folder):
    addresses = [str(open_folder / "s"), f"\0{open_folder.name}"]
    letters = str(open_folder / "d")
    with socket.socket(socket.AF_UNIX) as named, socket.socket(socket.AF_UNIX) as abstract, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as box:
        for listener, address in zip((named, abstract), addresses, strict=True):
            listener.bind(address)
            listener.listen()
        (open_folder / "s").chmod(0o777)
        box.bind(letters)
        (open_folder / "d").chmod(0o777)
        log = bench.output(f"""
            import socket
            for address in {addresses!r}:
                try:
                    socket.socket(socket.AF_UNIX).connect(address)
                    print("connected", address)
                except OSError:
                    pass
            for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
                try:
                    socket.socketpair(type=kind)[0].sendto(b"x", {letters!r})
                    print("sent a letter", kind)
                except OSError:
                    pass
            a, b = socket.socketpair()
            a.send(b"x")
            print(b.recv(1))
            """)
    assert log == "b'x'\n"


# ---- limits


def test_the_time_limit_ends_a_task(bench):
    status, log = bench.run("escape('beat')\ntime.sleep(60)", time_limit=1.0)
    assert status.end == "time_limit", log
    assert status.exit_code is None


def test_memory_beyond_the_limit_ends_a_task(bench):
    code = "x = []\nwhile True:\n    x.append(bytearray(5_000_000))\n    time.sleep(0.01)"
    status, log = bench.run(code, memory=100 * 10**6)
    assert status.end == "memory", log


def test_memory_of_all_processes_counts(bench):
    code = """
        for _ in range(4):
            if os.fork() == 0:
                x = b"x" * 60_000_000
                time.sleep(60)
        os.wait()
        sys.exit("one was killed")  # in a container the kernel kills one process, not all
        """
    status, log = bench.run(code, memory=150 * 10**6)
    assert status.end == "memory", log


def test_disk_beyond_the_limit_ends_a_task(bench):
    code = "for i in range(60):\n    open(f'f{i}', 'wb').write(os.urandom(1_000_000))\ntime.sleep(60)"
    status, log = bench.run(code, disk=20 * 10**6)
    assert status.end == "disk", log
    assert "20,000,000 bytes of disk" in log


def test_one_file_cannot_be_larger_than_the_disk_limit(bench):
    code = "try:\n    open('f', 'wb').write(bytes(9_000_000))\nexcept OSError as error:\n    os.unlink('f')\n    print(error.errno)"
    status, log = bench.run(code, disk=5 * 10**6)
    assert log == "27\n" or status.end == "disk"  # EFBIG; or the look came at the moment when it was as large as allowed


def _count():
    """The processes of this machine, nearly."""
    return len(list(Path("/proc").iterdir()))


def test_a_fork_bomb_is_bounded_and_ends(bench):
    code = """
        open("bomb", "w").close()
        while True:
            try:
                if os.fork() == 0:
                    time.sleep(0.01)
            except OSError:
                time.sleep(0.05)
        """
    before = _count()
    task = bench.start(code, processes=40, memory=2 * 10**9)
    bench.appears(task, "bomb")
    for _ in range(10):
        time.sleep(0.1)
        assert _count() - before < 40 * 2 + 256 + 100
    bench.runner.cancel(task.id, task.folder, 0)
    assert bench.wait(task).end in ("cancelled", "exit", "memory")
    bench.until(lambda: _count() - before < 40)


def test_no_core_is_left(bench):
    status, _ = bench.run("import resource; print(resource.getrlimit(resource.RLIMIT_CORE)); os.abort()")
    assert (status.end, status.exit_code) == ("exit", 134)


def test_the_use_of_cpu_and_memory_is_measured(bench):
    code = """
        if os.fork() == 0:
            end = time.process_time() + 0.4
            while time.process_time() < end: pass
            os._exit(0)
        os.wait()
        end = time.process_time() + 0.4
        while time.process_time() < end: pass
        x = b"x" * 50_000_000
        time.sleep(1.5)
        """
    status, _ = bench.run(code)
    assert 0.7 < status.cpu_seconds < 5
    assert 50e6 < status.memory < 400e6


# ---- ends


def test_cancel_lets_a_job_say_goodbye(bench):
    task = bench.start("""
        def goodbye(*_):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may be asked twice
            print("goodbye")
            sys.exit(0)
        signal.signal(signal.SIGTERM, goodbye)
        open("ready", "w").close()
        while True: time.sleep(0.05)
        """)
    bench.appears(task, "ready")
    bench.runner.cancel(task.id, task.folder)
    bench.runner.cancel(task.id, task.folder)
    status = bench.wait(task)
    assert status.end == "cancelled"
    assert bench.log(task) == "goodbye\n"


def test_cancel_ends_the_whole_tree(bench):
    task = bench.start("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nescape('beat')\nescape('second')\ntime.sleep(60)")
    bench.appears(task, "second")
    bench.runner.cancel(task.id, task.folder, 0.3)
    assert bench.wait(task).end == "cancelled"
    assert bench.still(task, "beat")
    assert bench.still(task, "second")
    bench.runner.cancel(task.id, task.folder, 0)
    assert bench.status(task).end == "cancelled"


def test_a_cancel_goes_on_after_the_worker_was_killed(bench):
    task = bench.start("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nescape('beat')\ntime.sleep(60)")
    bench.appears(task, "beat")
    bench.runner.cancel(task.id, task.folder, 0.5)
    bench.again()
    assert bench.wait(task).end == "cancelled"


def test_nothing_of_a_job_outlives_it(bench):
    task = bench.start("escape('beat')")
    assert bench.wait(task).exit_code == 0
    assert bench.still(task, "beat")


def test_a_crash_of_the_job_is_its_own_end(bench):
    status, _ = bench.run("os.kill(os.getpid(), signal.SIGSEGV)")
    assert (status.end, status.exit_code) == ("exit", 139)


SUBMIT = """
import sys, pickle
from mlaas.jobs.runners import of
settings, places, task = pickle.load(sys.stdin.buffer)
of(settings, places).submit(task)
"""


def test_the_caller_may_be_killed_at_any_moment_of_submit(bench):
    rng = random.Random(5)
    for number in range(5):
        task = bench.task("open('runs', 'a').write('x')\ntime.sleep(0.1)")
        caller = subprocess.Popen([sys.executable, "-c", SUBMIT], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        caller.stdin.write(pickle.dumps((bench.settings, bench.places, task)))
        caller.stdin.close()
        # the first is let be; for the others the moment differs
        if number:
            bench.until(lambda task=task, caller=caller: (task.folder / "work").exists() or caller.poll() is not None)
            time.sleep(rng.uniform(0, 0.25))
            caller.send_signal(signal.SIGKILL)
        caller.wait()
        bench.runner.submit(task)
        status = bench.wait(task)
        assert (status.end, status.exit_code) == ("exit", 0)
        assert (task.folder / "work" / "runs").read_text() == "x"


def test_the_submitter_and_the_poller_do_not_disturb_each_other(bench):
    task = bench.task("open('runs', 'a').write('x')\ntime.sleep(0.5)")
    code = SUBMIT.replace(
        "of(settings, places).submit(task)", "runner = of(settings, places)\nfor _ in range(300): runner.poll(task.id, task.folder)"
    )
    poller = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    poller.stdin.write(pickle.dumps((bench.settings, bench.places, task)))
    poller.stdin.close()
    bench.runner.submit(task)
    assert bench.wait(task).exit_code == 0
    assert poller.wait() == 0
    assert (task.folder / "work" / "runs").read_text() == "x"


# ---- hostile folders


def test_links_in_work_are_never_followed(bench, tmp_path):
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    first = bench.start(f"""
        import shutil
        shutil.rmtree("tmp")
        os.symlink({str(target)!r}, "tmp")
        os.symlink("/etc", "etc"); os.symlink("/", "root"); os.mkfifo("pipe"); os.symlink("pipe", "log.txt")
        """)
    assert bench.wait(first).exit_code == 0
    bench.runner.cleanup(first.id, first.folder)
    second = bench.task("open(os.environ['TMPDIR'] + '/x', 'w'); print(os.path.islink('tmp'))", job=first.folder.name, attempt=2, disk=10**6)
    bench.runner.submit(second)
    assert (bench.wait(second).exit_code, bench.log(second)) == (0, "False\n")
    assert list(target.iterdir()) == []
    assert (target.stat().st_uid, target.stat().st_mode & 0o777) == (os.getuid(), 0o700)


def test_a_work_folder_that_hides_its_content_is_over_its_limit(bench):
    deep = "for _ in range(150):\n    os.mkdir('d')\n    os.chdir('d')\ntime.sleep(60)"
    dark = "os.mkdir('dark')\nopen('dark/x', 'w').write('x')\nos.chmod('dark', 0)\ntime.sleep(60)"  # root sees into it
    status, _ = bench.run(dark if USER is None else deep, disk=10**6)
    assert status.end == "disk"


# ---- refusals


def test_a_job_may_not_read_the_service_itself(bench):
    (bench.places.secrets).mkdir(parents=True)
    with pytest.raises(RunnerError, match="keep the service's own files elsewhere"):
        bench.start("pass", readable=[bench.places.data])
    assert bench.runner.tasks(bench.places.data / "jobs") == []


def test_gpus_that_are_not_there_are_refused(bench):
    with pytest.raises(RunnerError, match="asks for 1 GPUs, but of the 0"):
        bench.start("pass", gpus=1)


@pytest.mark.skipif(OTHER is None, reason="only root gives each tenant a user of its own")
def test_root_needs_a_user_for_each_job(bench):
    with pytest.raises(RunnerError, match="as root each job needs a user"):
        bench.start("pass", user=None)


@pytest.mark.skipif(OTHER is None, reason="only root gives each tenant a user of its own")
def test_tenants_have_users_of_their_own(bench):
    code = "print(os.getuid()); open('mine', 'w').write('x'); os.chmod('mine', 0o600); time.sleep(0.5)"
    anna, ben = bench.start(code), bench.start(code, user=OTHER, cache=bench.places.cache("ben"))
    assert [bench.wait(task).exit_code for task in (anna, ben)] == [0, 0]
    assert (anna.folder / "work" / "mine").stat().st_uid == USER
    assert (ben.folder / "work" / "mine").stat().st_uid == OTHER
