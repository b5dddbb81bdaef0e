"""Reading Autobahn's reports, and the verdict on them.

`wstest` writes `index.json`: agent → case → behavior, behaviorClose, report file. The verdict is stricter
than the suite's own colours: NON-STRICT and UNIMPLEMENTED fail, and so does a case that was to be played
and is not in the report, because silence is not a pass.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

__all__ = ["MISSING", "PASSING", "Result", "passed", "problems", "read", "table"]

PASSING = frozenset({"OK", "INFORMATIONAL"})
"""What `behavior` and `behaviorClose` may be, each."""
MISSING = "MISSING"
"""Our word for a case that is not in the report, or has no verdict there."""

_PROBLEMS_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Result:
    """How one case went for one agent."""

    agent: str
    case: str
    behavior: str
    behavior_close: str
    report: Path | None = None

    @property
    def passed(self) -> bool:
        """Whether the answer and the closing were both as they should be."""
        return self.behavior in PASSING and self.behavior_close in PASSING


def read(index: Path, agent: str, cases: Iterable[str]) -> list[Result]:
    """Read what a report says of the cases that were to be played, one result each.

    Args:
        index: the `index.json` of a `wstest` run; it need not exist.
        agent: the name under which the agent was tested.
        cases: the cases that were to be played.
    """
    try:
        whole: Any = json.loads(index.read_bytes())
    except (OSError, ValueError):
        whole = {}
    of_agent: Any = whole.get(agent) if isinstance(whole, dict) else None
    results = []
    for case in cases:
        found: Any = of_agent.get(case) if isinstance(of_agent, dict) else None
        if not isinstance(found, dict):
            results.append(Result(agent, case, MISSING, MISSING))
            continue
        file = found.get("reportfile")
        results.append(
            Result(
                agent,
                case,
                str(found.get("behavior", MISSING)),
                str(found.get("behaviorClose", MISSING)),
                # Each case has its report twice; the page for people has the same name but for its ending.
                (index.parent / file).with_suffix(".html") if isinstance(file, str) else None,
            )
        )
    return results


def passed(results: Sequence[Result]) -> bool:
    """Whether there are results at all and each passed."""
    return bool(results) and all(result.passed for result in results)


def table(results: Iterable[Result]) -> str:
    """Lay out the counts of each agent, one line each, with a line of totals under them."""
    by_agent: dict[str, list[Result]] = {}
    everything: list[Result] = []
    for result in results:
        by_agent.setdefault(result.agent, []).append(result)
        everything.append(result)
    rows = [*sorted(by_agent.items()), ("total", everything)]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'agent':{width}}  cases    OK  INFORMATIONAL  other  missing"]
    for name, own in rows:
        missing = sum(result.behavior == MISSING for result in own)
        ok = sum(result.behavior == "OK" and result.behavior_close == "OK" for result in own)
        informational = sum(result.passed for result in own) - ok
        other = len(own) - ok - informational - missing
        lines.append(f"{name:{width}}  {len(own):5}  {ok:4}  {informational:13}  {other:5}  {missing:7}")
    return "\n".join(lines)


def problems(results: Iterable[Result]) -> list[str]:
    """Name each case that did not pass, with its verdicts and the report to open, at most forty of them."""
    lines = [
        f"{result.agent} case {result.case}: behavior {result.behavior}, closing {result.behavior_close}"
        + (f", see {result.report}" if result.report else "")
        for result in results
        if not result.passed
    ]
    more = len(lines) - _PROBLEMS_SHOWN
    return lines if more <= 0 else [*lines[:_PROBLEMS_SHOWN], f"… and {more} more"]
