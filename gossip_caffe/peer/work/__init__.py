"""The work of a peer: claims, batches, solver and loader, progress and speed."""
