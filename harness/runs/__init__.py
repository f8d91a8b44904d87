"""How a run is executed: jobs, child processes, leases, generation, sweeps."""
