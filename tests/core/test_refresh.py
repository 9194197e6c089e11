"""Refresh tokens: used once, given again after a lost answer, and the family ends when one comes back."""

import pytest

from paylab.core.refresh import GRACE_S, RefreshToken, Verdict, judge

FRESH = RefreshToken(expires_at_s=1000.0)
USED = RefreshToken(expires_at_s=1000.0, used_at_s=100.0)


@pytest.mark.parametrize(
    ("token", "now", "verdict"),
    [
        (None, 0.0, Verdict.REFUSE),
        (FRESH, 999.9, Verdict.ROTATE),
        (FRESH, 1000.0, Verdict.REFUSE),
        (USED, 100.0, Verdict.REPEAT),
        (USED, 100.0 + GRACE_S - 0.1, Verdict.REPEAT),
        (USED, 100.0 + GRACE_S, Verdict.END_FAMILY),
        (USED, 1000.0, Verdict.REFUSE),
        (RefreshToken(1000.0, 100.0, successor_used=True), 100.0, Verdict.END_FAMILY),
        (RefreshToken(1000.0, 100.0, family_ended=True), 100.0, Verdict.REFUSE),
        (RefreshToken(1000.0, family_ended=True), 100.0, Verdict.REFUSE),
    ],
)
def test_verdicts(token: RefreshToken | None, now: float, verdict: Verdict) -> None:
    """A retry is believed while the successor lies untouched; in every other case two hold the same token."""
    assert judge(token, now=now) is verdict
