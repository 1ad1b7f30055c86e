"""What a finding is, and how it is written down."""

import dataclasses
from collections.abc import Sequence

from vae_jax.errors import InputError

SEVERITIES = ("severe", "warning", "note")
NO_FINDINGS = "Nothing was found."


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a run.

    Attributes:
      name: of the failure mode.
      severity: 'severe' (results are not to be used), 'warning' (they are worse than they need be)
        or 'note' (good to know).
      evidence: the numbers that were measured.
      threshold: the rule that they break, and where it comes from.
      meaning: one sentence.
      remedy: flags of train.py, to be pasted, or what else is to be done.
      panel: title of the panel of diagnosis.png that shows the numbers, if one does.
    """

    name: str
    severity: str
    evidence: str
    threshold: str
    meaning: str
    remedy: str
    panel: str = ""

    def __post_init__(self):
        if self.severity not in SEVERITIES:
            raise InputError(
                f"severity = {self.severity!r} must be one of {', '.join(SEVERITIES)}."
            )

    @property
    def is_severe(self) -> bool:
        return self.severity == "severe"

    @property
    def details(self) -> dict[str, str]:
        """What a report lists of it, by name."""
        panel = f" (panel: {self.panel})" if self.panel else ""
        return {
            "Evidence": f"{self.evidence}{panel}",
            "Threshold": self.threshold,
            "Remedy": self.remedy,
        }

    def __str__(self) -> str:
        """One line, for a log."""
        return f"{self.severity}: {self.name}: {self.evidence} Remedy: {self.remedy}"


def sort_findings(findings: Sequence[Finding]) -> list[Finding]:
    """The most severe first, otherwise in the given order."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def to_markdown(findings: Sequence[Finding]) -> list[str]:
    """Lines: one block per finding; a sentence where there is none."""
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
