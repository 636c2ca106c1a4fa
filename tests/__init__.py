"""Tests of the house itself: instrument, reports, architecture. Operators are tested by their declarations."""
