"""One peer's part in checkpoints and tests of the consensus: making, copying and retaining them."""
