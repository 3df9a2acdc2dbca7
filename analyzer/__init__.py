"""Judge: detectors, rules, diagnosis and alerts. numpy, scipy and pandas only; never torch."""
