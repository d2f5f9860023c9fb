#!/usr/bin/env python3
"""What CleanVision says of a folder of images: cleanvision_peer.py DATA prints one JSON object.

Runs in an environment of its own (`pip install cleanvision`), in CleanVision's default settings: "sets" are the sets
of exact and of near duplicates, "seconds" the time for loading and finding.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
from pathlib import Path

from cleanvision import Imagelab  # type: ignore[import-not-found]


def main() -> None:
    """Parse, look, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    a = parser.parse_args()
    begin = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        lab = Imagelab(data_path=str(a.data))
        lab.find_issues()
    seconds = time.perf_counter() - begin
    sets = {
        kind: [[str(Path(path).relative_to(a.data.resolve())) for path in one] for one in lab.info[kind]["sets"]]
        for kind in ("exact_duplicates", "near_duplicates")
    }
    print(json.dumps({"sets": sets, "seconds": seconds}))


if __name__ == "__main__":
    main()
