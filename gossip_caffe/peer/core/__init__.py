"""The base of a peer's other packages: dependencies, lifecycle, tasks, and the interface of strategies."""
