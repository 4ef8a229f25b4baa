"""Print all problems that the rules of this package find, one in a line, and exit with 1 if there are any."""

import sys

from testbed.lint import names, pages, source


def main() -> None:
    """Run all checks."""
    problems = [problem for module in (source, names, pages) for check in module.CHECKS for problem in check()]
    print("\n".join(problems), end="\n" if problems else "")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
