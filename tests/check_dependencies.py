"""Prints the tree of Rust crates, each with the reason why it is there, and fails where one has none.

    python tests/check_dependencies.py

The reasons are the rows of the table in docs/pages/trust.md. A row without a crate fails as well. Needs cargo, and no
network once the crates are fetched. Licences, versions twice and sources are cargo-deny's to check.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "pages" / "trust.md"


def reasons(page: str) -> dict[str, str]:
    """What the page says of each crate."""
    return dict(re.findall(r"^\| `([\w-]+)` \| (.+?) \|$", page, re.MULTILINE))


def tree(kinds: str) -> list[tuple[int, str]]:
    """The crates of all platforms as Cargo resolves them: how deep each is, and its name and version."""
    command = ["cargo", "tree", "--locked", "--features", "python", "--target", "all", "--edges", kinds]
    out = subprocess.run(
        [*command, "--prefix", "depth", "--format", " {p}"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    lines = (re.match(r"(\d+) ([\w-]+) (v\S+)(.*)", line) for line in out.stdout.splitlines())
    return [(int(line[1]), f"{line[2]} {line[3]}") for line in lines if line and not line[4].endswith("(*)")]


def check(crates: list[tuple[int, str]], known: dict[str, str]) -> list[str]:
    """What is wrong: crates without a reason, and reasons without a crate."""
    names = {crate.split()[0] for _, crate in crates} - {"lstm-rs"}
    return [f"{name}: no reason in {PAGE.name}" for name in sorted(names - known.keys())] + [
        f"{name}: a reason in {PAGE.name}, but no such crate" for name in sorted(known.keys() - names)
    ]


def main() -> int:
    """Prints the tree and what is wrong with it."""
    known = reasons(PAGE.read_text(encoding="utf-8"))
    crates = tree("normal,build")
    linked = {crate for _, crate in tree("normal,no-proc-macro")}
    for depth, crate in crates:
        where = "" if crate in linked else "  (compiles only)"
        print(f"{'  ' * depth + crate:<38}{known.get(crate.split()[0], '')}{where}")
    wrong = check(crates, known)
    print(*wrong, sep="\n")
    others = len({crate for _, crate in crates}) - 1
    print(f"{others} crates, {len(linked) - 1} of them linked, on all platforms taken together")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
