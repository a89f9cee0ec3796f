"""Write the table and the picture of `docs/how-to/simulate.md`: `python tools/simulation.py`. It takes minutes."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "how-to" / "simulate.md"
BLOCK = re.compile(r"(<!-- Written by make simulate -->\n```\n).*?(?=```\n)", re.DOTALL)
COMMAND = "simulate --waited-at-most 0.5% --seeds 1,2,3 --best --plot docs/trade.svg"


def main() -> int:
    """Run the command that the page shows, and put what it prints into the page."""
    program = [sys.executable, "-c", "import sys; from rtcbridge.cli import main; sys.exit(main(sys.argv[1:]))"]
    run = subprocess.run(  # noqa: S603 - our own program
        [*program, *COMMAND.split(), *sys.argv[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    text, count = BLOCK.subn(lambda match: match[1] + run.stdout, PAGE.read_text(encoding="utf-8"))
    if count != 1:
        print(f"{PAGE.name} has no place for the table", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
