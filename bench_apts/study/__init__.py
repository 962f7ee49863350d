"""From a command to its trials: plan, search, schedule, parallel work, calibration."""
