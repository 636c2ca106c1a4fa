"""Tests of the house itself: the instrument, the reports, the architecture. Operators are tested by their declarations."""
