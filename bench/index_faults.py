"""`index.faults`: SIGKILL at every fault point and at 100 random moments, damaged files, a full disk, a store cut off;
after each the shard is the fold of the topic, and every answer meanwhile was right. Runs the fault tests at length.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from bench.claims import record_claim
from tests.faulty_worker import AT_START, SETTING_ASIDE, WHILE_RUNNING

TESTS = ("tests/fault/test_index_faults.py", "tests/fault/test_snapshot_faults.py")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="random moments")
    arguments = parser.parse_args()
    started_s = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", *TESTS],
        env={**os.environ, "PINSTREAM_FAULT_ROUNDS": str(arguments.rounds)},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    print(ran.stdout[-3000:])
    passed = ran.returncode == 0 and "skipped" not in ran.stdout
    answers = [int(number) for number in re.findall(r"(\d+) answers were right", ran.stdout)]
    record_claim(
        "index.faults",
        [arguments.rounds if passed else 0],
        bar=100,
        better="higher",
        unit="random SIGKILLs, and every fault point, without a wrong answer",
        details={
            "fault_points": [*WHILE_RUNNING, *AT_START, *SETTING_ASIDE],
            "answers_judged": sum(answers),
            "tests": ran.stdout.strip().splitlines()[-1].strip("= "),
            "seconds": round(time.monotonic() - started_s),
        },
    )
    return ran.returncode


if __name__ == "__main__":
    sys.exit(main())
