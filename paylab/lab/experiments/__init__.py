"""Questions with an expected answer, measured with intervals."""
