"""Tables and verdicts as pages that need no network."""
