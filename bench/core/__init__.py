"""The instrument: operators and their cases, the proof, the race, the worker, the record."""
