"""Findings about a run, and their Markdown form."""

import dataclasses
from collections.abc import Sequence

from vae_jax.errors import InputError

SEVERITIES = ("severe", "warning", "note")
NO_FINDINGS = "No problems were found."


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a run.

    Attributes:
      name: name of the failure mode.
      severity: 'severe' (the results should not be used), 'warning' (they are worse than they need
        to be) or 'note' (good to know).
      evidence: the measured numbers.
      threshold: the rule that the numbers break, and its source.
      meaning: what this means for the run, in one sentence.
      remedy: flags to paste behind the train.py command, or another action.
      panel: title of the panel of diagnosis.png that shows the numbers; empty: none does.
    """

    name: str
    severity: str
    evidence: str
    threshold: str
    meaning: str
    remedy: str
    panel: str = ""

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise InputError(
                f"severity = {self.severity!r} must be one of {', '.join(SEVERITIES)}."
            )

    @property
    def is_severe(self) -> bool:
        return self.severity == "severe"

    @property
    def details(self) -> dict[str, str]:
        """Evidence, threshold and remedy, by the names that a report prints."""
        panel = f" (panel: {self.panel})" if self.panel else ""
        return {
            "Evidence": f"{self.evidence}{panel}",
            "Threshold": self.threshold,
            "Remedy": self.remedy,
        }

    def __str__(self) -> str:
        """Returns one line, for a log."""
        return f"{self.severity}: {self.name}: {self.evidence} Remedy: {self.remedy}"


def sort_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Returns the findings with the most severe first, otherwise in the given order."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def to_markdown(findings: Sequence[Finding]) -> list[str]:
    """Returns Markdown lines: one block per finding, or one sentence if there are none."""
    if not findings:
        return [NO_FINDINGS, ""]
    lines = []
    for finding in findings:
        lines += [
            f"**{finding.severity}: {finding.name}.** {finding.meaning}",
            "",
            *(f"- {name}: {text}" for name, text in finding.details.items()),
            "",
        ]
    return lines
