"""What runs a step: collector, governor, the copy to the host, the gradient norm of every step, faults."""
