"""Tables and verdicts as text: on a terminal, and as Markdown for pull requests."""
