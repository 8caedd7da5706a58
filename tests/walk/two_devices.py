"""Tries subjects on two devices; a line of JSON for each trial: subject, way, what went wrong.

python tests/walk/two_devices.py [SUBJECT ...]     all by default
"""

import json
import sys
import traceback

from subjects import subjects
from ways import TWO_DEVICES


def main() -> None:
    for name, subject in subjects().items():
        if len(sys.argv) > 1 and name not in sys.argv:
            continue
        for way, check in TWO_DEVICES.items():
            if not subject.is_tried(way):
                continue
            error = ""
            try:
                check(subject)
            except Exception:
                error = traceback.format_exc()
            print(json.dumps([name, way, error]), flush=True)


if __name__ == "__main__":
    main()
