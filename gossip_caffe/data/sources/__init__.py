"""Records from LMDB, LevelDB, HDF5, pictures or a user's own data set, and their transformation."""
