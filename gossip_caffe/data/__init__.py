"""Record sources, transforms, the loader process and its ring of batches."""
