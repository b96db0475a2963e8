"""The solver process: layout, board, engines."""
