"""SIGKILL at random moments, and on purpose while the result is written and cleared up.

    python benchmarks/kills.py --jobs 22 --kills 320

Every job measures costs, is killed again and again, and at last is let end. Then the file must
have the same bytes as one that nobody disturbed, nothing else may lie beside it, and the same
command must find that all is done. Half of the jobs write over an older file; half of them on a
file system that has no files without names; with 1, 2 or 4 workers, of which all die, or one.
Jobs whose counts stand in ``results/kills.json`` are not done again.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
RESULTS = Path(__file__).parent / "results" / "kills.json"
sys.path.insert(0, str(TESTS))
os.environ["PYTHONPATH"] = f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["restarting"])
OLD = b"what was there before"
WRITING = ("fsync", "link", "replace")
CLEARING = ("unlink", "rmdir")
IDLE = 77  # exit code of a run that made no network call


def worker(out, rank, count, port, named, point, reached):
    """One worker's command; the first stops for ever at the given step of its last acts."""
    import restarting

    from dpdiff.runtime import files

    settings = {"RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in settings.items()}
    sys.stdout = sys.stderr = Path(f"{out.parent}.log").open("a")  # noqa: SIM115
    if named:  # what is written cannot be found without a name
        files._link = "/nowhere/{}".format
    if rank == 0 and point is not None:
        stop_at(point, reached)
    code = restarting.command(out, seconds=0.01)
    sys.exit(code or (0 if restarting.SlowNetwork.calls else IDLE))


def stop_at(point, reached):
    """Once costs are being saved, stop before a call that changes the disk: (kind, number)."""
    from dpdiff.costs import Costs

    kinds, number = point
    left, save = [number], Costs.save

    def counting(real, *arguments, **settings):
        left[0] -= 1
        if left[0] < 0:
            reached.set()
            time.sleep(600)
        return real(*arguments, **settings)

    def saving(*arguments):
        for name in kinds:
            setattr(os, name, partial(counting, getattr(os, name)))
        return save(*arguments)

    Costs.save = saving


class Job:
    """A measurement that is disturbed."""

    def __init__(self, folder, number):
        self.out, self.rng = folder / "costs.npz", random.Random(number)
        self.count = (1, 2, 1, 1, 4, 1)[number % 6]
        self.named, self.over = number % 2 == 0, number // 2 % 2 == 0
        if self.over:
            self.out.write_bytes(OLD)

    def begin_anew(self, expected):
        """If it is finished already: kills that come too late are none."""
        if self.out.exists() and self.out.read_bytes() == expected:
            assert set(end(self)) == {IDLE}, "measured again what was finished"
            self.out.unlink()
            if self.over:
                self.out.write_bytes(OLD)

    def start(self, point=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        reached = PROCESSES.Event()
        common = (self.count, port, self.named, point, reached)
        team = [
            PROCESSES.Process(target=worker, args=(self.out, rank, *common), daemon=True)
            for rank in range(self.count)
        ]
        for process in team:
            process.start()
        return team, reached

    def blocks(self):
        return len(list(Path(f"{self.out}.parts").glob("*.part")))

    def kill_at_random(self):
        """After at least one more block, at any moment."""
        before, (team, _) = self.blocks(), self.start()
        while team[0].is_alive() and self.blocks() <= before:
            time.sleep(0.003)
        time.sleep(self.rng.uniform(0, 0.1))
        return self.kill(team, "random")

    def kill_on_purpose(self, kinds):
        """In the window of the final write, or of the clearing up."""
        steps = len(WRITING) - (not self.over) if kinds == WRITING else 1 + self.blocks()
        team, reached = self.start((kinds, self.rng.randrange(max(1, steps))))
        while team[0].is_alive() and not reached.wait(0.02):
            pass
        return self.kill(team, "writing" if kinds == WRITING else "clearing", reached.is_set())

    def kill(self, team, name, hit=True):
        """Kill all workers, or one of them and see the others end by themselves."""
        alone = name == "random" and len(team) > 1 and self.rng.random() < 0.5
        victims = [self.rng.choice(team)] if alone else team
        alive = hit and all(process.is_alive() for process in victims)
        for process in victims:
            process.kill()
        for process in team:
            process.join(3)
            process.kill()
            process.join()
        return ("one worker" if alone else name) if alive else "too late"


def disturb(job, expected, kills, counts):
    """Kill one job so many times, then let it end."""
    for _ in range(kills):
        job.begin_anew(expected)
        counts[job.kill_at_random()] += 1
        check(job, expected)
    for kinds in (WRITING, WRITING, CLEARING):
        job.begin_anew(expected)
        counts[job.kill_on_purpose(kinds)] += 1
        check(job, expected)
    codes = end(job)
    assert set(codes) <= {0, IDLE}, codes
    assert job.out.read_bytes() == expected, "other bytes"
    assert os.listdir(job.out.parent) == [job.out.name], os.listdir(job.out.parent)
    assert set(end(job)) == {IDLE}, "measured again what was finished"
    assert os.listdir(job.out.parent) == [job.out.name]


def end(job):
    team, _ = job.start()
    for process in team:
        process.join()
    return [process.exitcode for process in team]


def check(job, expected):
    """Under the result's name lies what was there before, or the whole result."""
    if job.over or job.out.exists():
        assert job.out.read_bytes() in ((OLD, expected) if job.over else (expected,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=22)
    parser.add_argument("--kills", type=int, default=320, help="at random; 3 more a job on purpose")
    options = parser.parse_args()
    report = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    root = Path(tempfile.mkdtemp())
    (root / "undisturbed").mkdir()
    calm = Job(root / "undisturbed", 3)
    assert end(calm) == [0]
    expected = calm.out.read_bytes()
    for number in range(options.jobs):
        if str(number) in report:
            continue
        folder, counts = root / str(number), collections.Counter()
        folder.mkdir()
        job = Job(folder, number)
        disturb(job, expected, -(-options.kills // options.jobs), counts)
        report[str(number)] = {"workers": job.count, **counts}
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")
        print(number, report[str(number)], flush=True)
    shutil.rmtree(root)
    total = sum((collections.Counter(counts) for counts in report.values()), collections.Counter())
    print(len(report), "jobs", dict(total - collections.Counter(workers=total["workers"])))


if __name__ == "__main__":
    main()
