"""The history checker: a pure function from the event logs of a run to a finding about each invariant."""
