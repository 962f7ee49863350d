"""Setting a suite's target by measurement; the rule is in docs/suites.md."""
