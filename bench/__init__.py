"""The benchmark: one declaration per operator, and the instrument in `bench.core` that checks and clocks them."""
