"""The specification of a job: settings, data, learning rate."""
