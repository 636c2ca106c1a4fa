"""What every column of the data means, and its unit, which is in its name: one place for all of the CSV files."""

from __future__ import annotations

from collections.abc import Callable

from reports import units

# By the end of a column's name, the longest first. What is no end of these is a text, a ratio or a plain count.
UNITS = {
    "joules_per_token": "joules per token", "joules_per_call": "joules per call",
    "energy_per_token_j": "joules per token", "bytes_per_s": "bytes per second",
    "flop_per_s": "operations per second", "seq_len": "tokens",
    "vector_flops": "operations", "flops": "operations", "_bytes": "bytes", "_bits": "bits", "_mhz": "MHz",
    "_hz": "Hz", "_s": "seconds", "_w": "watts", "_c": "degrees Celsius", "_j": "joules",
}  # fmt: skip

MEANINGS = {
    # of a row and of where it ran
    "device": "the device, as it calls itself",
    "base": "the device, or the runs, that others are held against",
    "head": "the runs that are judged",
    "run": "the results file, or its number in these tables",
    "path": "the results file",
    "file": "the results file",
    "started": "when the run started, in UTC",
    "commit": "the commit whose tree was run",
    "commit_before": "the commit of the last run ahead of the change",
    "dirty": "whether the tree differed from its commit; empty where git could not tell",
    "profile": "how much of the sweep was asked for",
    "unfinished": "rows of a run that was cut short; empty of a whole one",
    "command": "what repeats it",
    "kind": "of the device: cpu, cuda, ...",
    "versions": "of the libraries",
    "facts": "what the device tells of itself",
    "options": "of the run, where they are not the defaults",
    "conditions": "under which the run was clocked",
    "overhead": "time that the harness added, over the time of what it timed",
    "flush_share": "time that flushing caches took, over the time of what was timed",
    "operator": "the operator",
    "mode": "fwd or bwd",
    "case": "the case: its model or shape, dtype, length",
    "series": "the case without its sequence length",
    "seq_len": "the sequence length",
    "provider": "whose implementation",
    "role": "reference, kernel (ours) or peer",
    "row": "operator, mode, case and provider as one name",
    "status": "measured, absent, failed or invalid",
    "reason": "why there is no time, no verdict, or no comparison",
    "remedy": "the command that would mend it",
    "rows": "how many rows",
    "where": "operators and modes",
    # of its time
    "timer": "the clock: device, graph or host",
    "rounds": "how many rounds were timed",
    "stopped": "why the race, or the search, ended",
    "median_s": "the median of all raw samples",
    "low_s": "the lower end of the 95 % interval of the median, from order statistics",
    "high_s": "the upper end of the 95 % interval of the median",
    "q1_s": "the lower quartile of the samples",
    "q3_s": "the upper quartile of the samples",
    "bootstrap_low_s": "the lower end of the bootstrapped 95 % interval that ended the race",
    "bootstrap_high_s": "the upper end of the bootstrapped interval",
    "half_width": "half of the bootstrapped interval, over the median",
    "warm_s": "the median where caches were left warm",
    "cold_over_warm": "cold median over warm median",
    "other_medians": "the medians of the other clocks, in seconds",
    "heaps": "where the samples fall into several heaps: their medians in seconds and their shares",
    "bytes_per_s": "the fewest bytes that must move, over the median",
    "flop_per_s": "the operations that the mathematics needs, over the median",
    "cycles": "of the SMs during the median, at their median clock",
    "setup_s": "the first call",
    "compile_s": "of the first call, compiling",
    "tune_s": "of the first call, tuning",
    "compiled": "kernels compiled in the first call",
    "cache_hits": "of these kernels, those that the cache held",
    # of where it stands
    "unit": "the dtype that its operations run in; of a roof, the unit of its value",
    "roof": "which roof binds; in tables of roofs, its name",
    "least_s": "the least time that the roofs of its run allow",
    "of_roof": "that least time over the median; 1 is the roof itself",
    "rival": "the strongest peer on the case",
    "over_rival": "how many times faster than the strongest peer; above 1 is faster",
    "over_rival_low": "its lower end, from the ends of both intervals",
    "over_rival_high": "its upper end",
    "over_naive": "how many times faster than the naive reference",
    "fastest": "the fastest provider",
    "fastest_s": "its median",
    "wins": "cases in which it is the fastest",
    "cases": "how many cases",
    "ours": "our fastest kernel",
    "ratio_least": "the least ratio over all cases",
    "ratio_most": "the largest ratio over all cases",
    "failed": "whether ours failed",
    # of its proof, memory, energy and telemetry
    "error": "the error against float64 on the same inputs, in the unit of the budget",
    "budget": "the error that is allowed",
    "proven": "which rows of the output were proven",
    "traffic_bytes": "the fewest bytes that must move",
    "flops": "the operations that the mathematics needs",
    "peak_bytes": "the most memory held during the call, above the inputs",
    "output_bytes": "of the outputs",
    "workspace_bytes": "held during the call beside inputs and outputs",
    "saved_bytes": "saved for the backward",
    "least_bytes": "the least that the results need",
    "peak_over_least": "peak over least",
    "joules_per_call": "energy of one call",
    "resolution_j": "what the counter of energy can tell apart, per call",
    "energy_per_token_j": "energy of one call over the sequence length",
    "energy_s": "how long energy was counted",
    "calls": "calls in which energy was counted",
    "counter": "the counter of energy",
    "sm_clock_hz": "the median clock of the SMs",
    "memory_clock_hz": "the median clock of the memory",
    "temperature_c": "the median temperature",
    "power_w": "the median power",
    "load": "the median load of the machine",
    "foreign_processes": "other processes on the device",
    "foreign_bytes": "memory that they held",
    "tuned": "the configurations that its kernels ran with",
    "marks": "doubts",
    "opinion_s": "what a second timer says",
    # of verdicts and changes
    "verdict": "faster, slower, same, ambiguous, not comparable or invalid",
    "ratio": "verdicts and changes: time after over time before, above 1 is slower; devices: time on the base over "
    "time on the device, above 1 the device is faster; standings: above 1 ours is faster",
    "ratio_low": "the lower end of its 95 % interval",
    "ratio_high": "the upper end of its 95 % interval",
    "p": "of the null that nothing changed, before the correction for many rows",
    "base_s": "the time of the base",
    "head_s": "the time of what is judged",
    "device_s": "the time on the device",
    "base_runs": "runs of the base that have the row",
    "head_runs": "runs of the head that have the row",
    "noise": "the relative standard deviation from run to run",
    "resolvable": "the least relative slowdown that would be found in 95 of 100 cases",
    "vanished": "whether only the base has a time, though head was asked for one",
    "new": "whether only the head has a time",
    "runs": "how many runs stand behind the change",
    "confirmed": "whether two runs in a row show it",
    "causes": "what else changed there, the likeliest first",
    # of devices side by side
    "predicted": "the ratio that both devices' measured roofs predict",
    "by": "which roof binds on the base and on the device",
    "residual": "observed ratio over predicted ratio",
    "base_joules_per_call": "energy of one call on the base",
    "device_joules_per_call": "energy of one call on the device",
    "base_joules_per_token": "energy per token on the base",
    "device_joules_per_token": "energy per token on the device",
    "base_of_roof": "share of its roof on the base",
    "device_of_roof": "share of its roof on the device",
    "base_mhz": "the SM clock on the base",
    "device_mhz": "the SM clock on the device",
    "low": "the lower end of the interval",
    "high": "the upper end of the interval",
    "faster_below": "who is faster at shorter lengths",
    "faster_above": "who is faster at longer lengths",
    "name": "the name of the roof",
    "value": "the median of what the device itself reached, in `unit`; of the gate, what was measured",
    "largest": "the largest sequence length for which there is memory, in tokens",
    "fails_at": "the next length that was tried, in tokens",
    "cap_bytes": "the memory that was allowed",
    "priority": "the rank of the case in the plan; low ones are clocked first",
    "config_from": "the device whose configurations were used",
    "tuned_s": "the time with the configurations tuned here",
    "foreign_s": "the time with those of the other device",
    "cost": "foreign time over tuned time; above 1 they cost time",
    "cost_low": "its lower end",
    "cost_high": "its upper end",
    "foreign": "the other device's configurations",
    # of counts
    "gpu": "the GPU whose data sheet the bounds are of",
    "floor_bytes": "the fewest bytes, as the operator states them",
    "floor_flops": "the operations, as the operator states them",
    "footprint_bytes": "bytes moved, each byte once per launch",
    "requested_bytes": "bytes that loads and stores asked for",
    "vector_flops": "operations outside of dots",
    "special": "results of special functions",
    "launches": "launches of kernels",
    "dots": "operations of dots, by dtype",
    "traffic": "bytes moved over the floor",
    "rereads": "bytes asked for over bytes moved",
    "work": "operations over those that the operator states",
    "intensity": "operations per byte moved",
    "floor_s": "the least time by the floor and the data sheet; predicted, not measured",
    "bound_s": "the least time by what was counted; predicted, not measured",
    "uncached_s": "the time of all bytes asked for at the bandwidth; predicted, not measured",
    "target": "the architecture compiled for",
    "kernel": "the compiled kernel",
    "configuration": "its tuning configuration",
    "default": "whether it is the first configuration, with which a kernel runs untuned",
    "absent": "why it could not be compiled",
    "registers": "registers per thread",
    "spills_bytes": "spilled to local memory, per thread",
    "shared_bytes": "shared memory per block",
    "occupancy": "the share of the warps that fit",
    "tensor": "tensor-core instructions",
    "widest_bits": "the widest access to memory",
    "narrowest_bits": "the narrowest access to memory",
    "what": "what was counted",
    "history_runs": "how many runs of history the gate had",
    "rate": "how often it happened, over all replays",
    "replays": "how many histories were replayed",
}


# How a number is told: by the unit that its row names, else by the end of its column's name, else as it stands.
BY_UNIT: dict[str, Callable[[float], str]] = {
    "byte/s": lambda value: units.per_second(value, "B/s"),
    "op/s": lambda value: units.per_second(value, "OP/s"),
    "s": units.seconds,
}
BY_END: dict[str, Callable[[float], str]] = {
    "_bytes": units.size, "_s": units.seconds, "_j": units.joules, "_hz": units.hertz, "ratio": units.ratio,
    "cost": units.ratio, "cost_low": units.ratio, "cost_high": units.ratio,
}  # fmt: skip


def as_text(column: str, value: object, row_unit: str = "") -> str:
    """A cell as text; row_unit: of all figures of its row, where the row says so."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return units.NOTHING if value is None else str(value)
    tell = BY_UNIT.get(row_unit) or next((tell for end, tell in BY_END.items() if column.endswith(end)), units.plain)
    return tell(value)


def unit(column: str) -> str:
    """The unit of a column in words; empty where it has none."""
    return next((words for end, words in UNITS.items() if column.endswith(end)), "")


def meaning(column: str) -> str:
    """What a column holds; of one that is named by results, such as a device, that its figures are meant."""
    return MEANINGS.get(column, "the figure of what the column is named after, in `unit`")
