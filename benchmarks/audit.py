#!/usr/bin/env python3
"""What `steadylens audit` finds of planted faults, beside CleanVision on the same folder.

audit.py PLANTED [--cleanvision PYTHON]

PLANTED comes from planted.py, its truth lies beside it. PYTHON is the interpreter of an environment with CleanVision,
without which only steadylens runs. A planted pair is found where both its images stand in one set of a finding that
says so. A false alarm is an image in such a set that belongs to no planted pair; the share is of all such images.
Wrong labels are the business of label_issues.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Sets = list[list[str]]
PEER = Path(__file__).with_name("cleanvision_peer.py")
NEAR_KINDS = ("re-encoded", "resized", "cropped", "brightened")


def ours(data: Path) -> tuple[dict[str, Sets], float]:
    """The sets of the findings on exact and on near copies, with paths relative to the folder, and the seconds."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "steadylens", "audit", str(data), "--out", f"{folder}/audit", "--json"]
        answer = subprocess.run([*command, "--quiet"], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    root = str(data.resolve()) + "/"
    findings: list[dict[str, Any]] = json.loads(answer.stdout)["findings"]
    sets: dict[str, Sets] = {"exact_duplicates": [], "near_duplicates": []}
    for finding in findings:
        # A certain finding with sets rests on equal bytes; all others on what the images look like.
        kind = "exact_duplicates" if finding["sure"] == "certain" else "near_duplicates"
        sets[kind] += [[path.removeprefix(root) for path in one] for one in finding["sets"]]
    return sets, seconds


def cleanvision(python: str, data: Path) -> tuple[dict[str, Sets], float]:
    """The same of the peer."""
    answer = subprocess.run([python, str(PEER), str(data)], check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return result["sets"], result["seconds"]


def pairs_in(sets: Iterable[list[str]]) -> set[frozenset[str]]:
    """Every pair of images that stands in one set."""
    return {frozenset((a, b)) for one in sets for i, a in enumerate(one) for b in one[:i]}


def row(name: str, sets: dict[str, Sets], seconds: float, truth: dict[str, list[dict[str, str]]], images: int) -> str:
    """One line of the table."""
    exact, near = pairs_in(sets["exact_duplicates"]), pairs_in(sets["near_duplicates"])
    planted = [*truth["exact_duplicates"], *truth["near_duplicates"], *truth["leaks"]]

    def share(wanted: list[dict[str, str]], found: set[frozenset[str]]) -> str:
        hits = sum(frozenset((one["original"], one["copy"])) in found for one in wanted)
        return f"{hits} of {len(wanted)}"

    by_kind = [[one for one in truth["near_duplicates"] if one["kind"] == kind] for kind in NEAR_KINDS]
    known = {path for one in planted for path in (one["original"], one["copy"])}
    alarms = {path for one in (*sets["exact_duplicates"], *sets["near_duplicates"]) for path in one} - known
    cells = [
        share(truth["exact_duplicates"], exact),
        share(truth["near_duplicates"], near | exact),
        *(share(wanted, near | exact) for wanted in by_kind),
        share(truth["leaks"], near | exact),
        f"{len(alarms)} ({100 * len(alarms) / (images - len(known)):.2f} %)",
        f"{seconds:.0f}",
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Parse, audit, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("planted", type=Path)
    parser.add_argument("--cleanvision")
    a = parser.parse_args()
    truth = json.loads(a.planted.with_name(f"{a.planted.name}-truth.json").read_text("utf-8"))
    images = sum(1 for path in a.planted.glob("*/*/*") if path.is_file())
    heads = ["", "exact", "near", *NEAR_KINDS, "leaks", "false alarms", "seconds"]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|", flush=True)
    print(row("steadylens audit", *ours(a.planted), truth, images), flush=True)
    if a.cleanvision:
        print(row("CleanVision", *cleanvision(a.cleanvision, a.planted), truth, images), flush=True)


if __name__ == "__main__":
    main()
