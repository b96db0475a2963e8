"""A worker: it begins trials, leads them, takes over those of dead workers, and joins others."""
