"""Commands of the command line whose rooms may not import it: alerts, backtest. Those of the zoo and the benchmarks stand there."""
