"""Compare the table of a quickstart run with the golden one, digit by printed digit.

python .ci/check_quickstart.py runs/quickstart [--write]
"""

import argparse
import json
import sys
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden" / "quickstart.json"
DIGITS = {"log_prob": 2, "accuracy": 3, "f1": 3, "num_steps": 1, "log_prob_vs_matched": 2, "log_prob_vs_untrained": 2}


def printed(row: dict) -> dict:
    """Return a row's figures as the terminal's table shows them."""
    values = {"label": row["label"], "num_tasks": row["num_tasks"], "num_failed": row["num_failed"]}
    for name, digits in DIGITS.items():
        value = row[name]
        values[name] = None if value is None else f"{value['mean']:.{digits}f} ± {value['standard_error']:.{digits}f}"
    return values


def main() -> int:
    """Compare or write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--write", action="store_true", help="make the run's table the golden one")
    options = parser.parse_args()
    results = json.loads((options.run / "results" / "test.json").read_text())
    table = [printed(row) for row in results["table"]]
    if options.write:
        GOLDEN.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")
        return 0
    golden = json.loads(GOLDEN.read_text())
    different = [(a, b) for a, b in zip(table, golden, strict=False) if a != b]
    for found, expected in different:
        sys.stderr.write(f"found    {found}\nexpected {expected}\n")
    if len(table) != len(golden) or different:
        sys.stderr.write(
            f"the quickstart's table differs from {GOLDEN.name} in {len(different)} of {len(golden)} rows\n"
        )
        return 1
    sys.stdout.write(f"the quickstart's table equals {GOLDEN.name}: {len(golden)} rows\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
